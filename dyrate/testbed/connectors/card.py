"""The card of trained connectors: README.md beside their folders."""

import inspect
from pathlib import Path

from dyrate import files
from dyrate.connectors.folder import RECORD_FILE, read_record
from dyrate.connectors.registry import connectors

_HEAD = """# Connectors trained on {model}

Each folder is a model: `connector: {folder}/NAME` in a study's config, or
`--model {folder}/NAME`. It holds the connector and a low-rank adapter of the language
model that was trained with it; vision tower and language model are those of `{model}`, unchanged. They
show the published *ideas* under one small budget of data and steps, on synthetic scenes, and are not the
published systems.

All saw the same {steps} batches of {batch} images; the connector learned alone in the first {alone}. The
seconds are those of the process, which may have trained several, beside others on the same GPU. "Right" is
of held-out questions, answered greedily, to the letter.

    dyrate testbed connectors --model {model} --output {folder}

| folder | what it is | tokens | parameters | adapter's | seconds | right | device | commit |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
_ROW = (
    "| {name} | {what} | {tokens} | {connector:,} | {adapter:,} | {seconds:.0f} | {right} | {device} "
    "| {commit} |\n"
)


def write_card(folder: Path) -> Path:
    """Write the card of all connectors in a folder from their records, without their variants; return it."""
    rows, recipe, model = [], {}, ""
    for path in sorted(folder.glob(f"*/{RECORD_FILE}")):
        record = read_record(path.parent)
        if record.weights != ".":
            continue
        training = record.training
        recipe, model = training["recipe"], (path.parent / record.model).resolve().name
        what = (inspect.getdoc(connectors()[record.connector]) or "").partition("\n\n")[0]
        right = dict(sorted(training["held_out"].items(), key=lambda one: int(one[0])))
        rows.append(
            _ROW.format(
                name=path.parent.name,
                what=what.replace("-\n", "-").replace("\n", " "),
                tokens=", ".join(right),
                **training["parameters"],
                seconds=training["seconds"],
                right=", ".join(f"{score['questions']:.1%}" for score in right.values()),
                device=training["device"],
                commit=str(training["commit"])[:7],
            )
        )
    facts = {"steps": recipe["steps"], "batch": recipe["batch_size"], "alone": recipe["alone"]}
    head = _HEAD.format(model=f"models/{model}", folder=f"connectors/{folder.name}", **facts)
    card = folder / "README.md"
    files.write_text(card, head + "".join(rows))
    return card
