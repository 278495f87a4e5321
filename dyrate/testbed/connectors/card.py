"""The card of trained connectors: README.md beside their folders."""

import inspect
import os
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

Those of equally many and equally large batches saw the same ones; in the first, "alone", the connector
learned without its adapter. The seconds are those of the process, which may have trained several, beside
others on the same GPU. "Right" is of held-out questions, answered greedily, to the letter.

    dyrate testbed connectors --model {model} --output {folder}

| folder | what it is | tokens | parameters | adapter's | batches | seconds | right | device | commit |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
_ROW = (
    "| {name} | {what} | {tokens} | {connector:,} | {adapter:,} | {steps} of {batch_size}, {alone} alone "
    "| {seconds:.0f} | {right} | {device} | {commit} |\n"
)


def write_card(folder: Path) -> Path:
    """Write the card of all connectors in a folder from their records, without their variants; return it.

    `folder` is named in it as it is given, and so is the model: from where the commands are to be run.
    """
    rows, model = [], ""
    for path in sorted(folder.glob(f"*/{RECORD_FILE}")):
        record = read_record(path.parent)
        if record.weights != ".":
            continue
        training, model = record.training, os.path.normpath(path.parent / record.model)
        what = (inspect.getdoc(connectors()[record.connector]) or "").partition("\n\n")[0]
        right = dict(sorted(training["held_out"].items(), key=lambda one: int(one[0])))
        rows.append(
            _ROW.format(
                name=path.parent.name,
                what=what.replace("-\n", "-").replace("\n", " "),
                tokens=", ".join(right),
                **training["parameters"],
                **{key: training["recipe"][key] for key in ("steps", "batch_size", "alone")},
                seconds=training["seconds"],
                right=", ".join(f"{score['questions']:.1%}" for score in right.values()),
                device=training["device"],
                commit=str(training["commit"])[:7],
            )
        )
    card = folder / "README.md"
    files.write_text(card, _HEAD.format(model=model, folder=folder) + "".join(rows))
    return card
