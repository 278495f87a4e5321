"""Writes a testbed model's card from its training record: what it is, and what it must not be taken for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.testbed.models.architecture import HEAD_WIDTH
from dyrate.testbed.models.qwen_packing import MERGE, PATCH, SIDES, TOKEN, WINDOW
from dyrate.testbed.models.recipe import RECIPES
from dyrate.testbed.models.stream import stream_hash

_CURVE_ROWS = 8


def write_card(model: Path, acceptance: Path | None = None) -> Path:
    """Write README.md into a model's directory and return its path.

    Args:
        model: directory of a trained testbed model, with `training.json`.
        acceptance: JSON file of `dyrate testbed accept`, whose rows of this model the card then shows.

    Raises:
        DyrateError: if a file is missing or is not what it should be.
    """
    record = _read(model / "training.json", "training", "train")
    parts = [_head(model.name, record), _recipe(record), _curve(record), _accuracy(record)]
    if acceptance is not None:
        parts.append(_acceptance(model.name, _read(acceptance, "acceptance", "accept")))
    path = model / "README.md"
    files.write_text(path, "\n\n".join(parts) + "\n")
    return path


def _read(path: Path, kind: str, writer: str) -> dict[str, Any]:
    if not path.is_file():
        raise DyrateError(f"{path} does not exist; it is written by `dyrate testbed {writer}`")
    content: dict[str, Any] = files.read_json(path)
    if not isinstance(content, dict):
        raise DyrateError(f"{path}: holds a {type(content).__name__}, should be an object")
    if content.get("schema") != f"dyrate.{kind}":
        raise DyrateError(f"{path}: schema is {content.get('schema')!r}, expected 'dyrate.{kind}'")
    return content


def _table(header: list[str], rows: Iterable[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _head(name: str, record: dict[str, Any]) -> str:
    merged = "whole_layers" in record["size"]
    family, whose = ("Qwen2.5-VL", "Qwen2.5-VL's") if merged else ("LLaVA-1.5", "LLaVA's")
    kind = "Qwen2_5_VLForConditionalGeneration" if merged else "LlavaForConditionalGeneration"
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
---
# {name}

A very small vision-language model in {family}'s architecture (`{kind}`), trained
from random weights on synthetic scenes. It stands in for a real model where none can be downloaded, so that
visual-token reduction can be run, tested and compared anywhere, in minutes.

It is **not** {family}, shares no weights with it, and knows nothing but its own world of coloured shapes
and printed signs. Its scores are on benchmarks of that world, which have the schema, prompts and metrics of
the real ones but not their content: never quote them as results on GQA, COCO and the like, nor as {whose}.

{_merged(record) if merged else _llava(record)}

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("models/{name}", backend="pil")
model = AutoModelForImageTextToText.from_pretrained("models/{name}", dtype="float32")
```{_NEEDS if merged else ""}"""


_NEEDS = """

The processor needs torchvision, which transformers asks for."""


def _llava(record: dict[str, Any]) -> str:
    size = record["size"]
    vision = f"{size['vision_layers']} layers, width {size['vision_width']}"
    text = (
        f"{size['text_layers']} layers, width {size['text_width']}, feed-forward {size['text_feed_forward']}"
    )
    return f"""{record["parameters"] / 1e6:.1f} M parameters, stored in half precision: a CLIP vision tower
({vision}, patches of 14 pixels), a two-layer projector, and a Llama text model ({text};
{record["tokens"]} tokens).
Images are 168x168 pixels: 144 visual tokens. As in LLaVA-1.5, the projector reads the tower's second-last
layer. `clip/` holds the other half of the CLIP model that the tower belongs to
({record["clip_parameters"] / 1e6:.1f} M parameters: a text tower of {size["caption_layers"]} layers, both
projections, the temperature): `dyrate.clip.clip_model` puts them together."""


def _merged(record: dict[str, Any]) -> str:
    size = record["size"]
    whole = " and ".join(str(layer) for layer in size["whole_layers"])
    return f"""{record["parameters"] / 1e6:.1f} M parameters, stored in half precision: a vision tower of
{size["vision_layers"]} layers of width {size["vision_width"]} and feed-forward {size["vision_feed_forward"]}
on patches of {PATCH} pixels (layers {whole} attend to the whole image, counted from 0, the others within
windows of {WINDOW} x {WINDOW} pixels), a merger of {MERGE} x {MERGE} patches to a visual token, and a text
model of {size["text_layers"]} layers, width {size["text_width"]}, feed-forward {size["text_feed_forward"]},
{size["text_width"] // HEAD_WIDTH} heads to {size["key_value_heads"]} of keys and values; {record["tokens"]}
tokens, embeddings tied. Positions are of time, row and column.

Images have any size, and a visual token for every {TOKEN} x {TOKEN} pixels. Those of training were the
world's, of 168 x 168 pixels, resized to heights and widths of {", ".join(map(str, SIDES[:-1]))} or
{SIDES[-1]}: {(SIDES[0] // TOKEN) ** 2} to {(SIDES[-1] // TOKEN) ** 2} visual tokens, 144 on average, which
is what each image of testbed-s has. The rest of the recipe is that of testbed-s, but for longer sequences;
visual tokens cannot stand closer than one position apart, and CLIP's loss compares captions with the mean of
an image's patches, as there is no class token. Its text tower is not kept."""


def _recipe(record: dict[str, Any]) -> str:
    recipe, plan, machine, versions = (record[key] for key in ("recipe", "plan", "machine", "versions"))
    start, steps = plan["decay_start"], plan["steps"]
    today = stream_hash(recipe["seed"])
    other_world = (
        f" **The world has changed since**: this revision gives `{today[:16]}...`. What the command below "
        "trains is another model."
    )
    changed = "" if today == record["data_sha256"] else other_world
    ended = "" if record["completed"] else f" The run was ended early, at step {record['curve'][-1]['step']}."
    merged = "whole_layers" in record["size"]
    seen = "the tower's patches, averaged," if merged else "the class token after the tower's last layer"
    more = _contrast(recipe, seen) + _spacing(recipe)
    return f"""## Training

Every step takes {recipe["batch_size"]} images, made while training by
`dyrate.testbed.world.examples.training_example` (seed {recipe["seed"]}; none is shown twice), each with all
its questions packed into one sequence of {recipe["pack_length"]} tokens in which a question sees the image
and itself only. Loss on the answers alone; an answer of n tokens weighs sqrt(n).{more} AdamW,
learning rate
{recipe["peak_learning_rate"]:g} after {recipe["warmup_steps"]} steps of warm-up, linear decay to zero from
step {start} to {steps}, weight decay {recipe["weight_decay"]:g} on matrices, gradient norm clipped at
{recipe["clip_norm"]:g}, {recipe["precision"]} arithmetic on float32 weights.{ended}

{record["images"]:,} images in {record["seconds"] / 60:.1f} minutes on one {machine["hardware"]} with
{machine["workers"]} processes making the data ({record["resumed"]} resumed). Python {versions["python"]},
torch {versions["torch"]}, transformers {versions["transformers"]}. SHA-256 of the first 64 training
examples: `{record["data_sha256"]}`.{changed}

The same schedule without a clock:

```
dyrate testbed train --model {recipe["model"]} --seed {recipe["seed"]} \\
    --steps {steps} --decay-steps {steps - start} {_options(recipe)}--output DIR
```

A GPU does not repeat its sums to the last bit, so the weights will be alike, not equal."""


def _options(recipe: dict[str, Any]) -> str:
    """What the recipe has otherwise than by default."""
    names = ("contrast_weight", "contrast_steps", "tower_rate", "least_spacing")
    plain = RECIPES[recipe["model"]]
    changed = (name for name in names if recipe[name] != getattr(plain, name))
    return "".join(f"--{name.replace('_', '-')} {recipe[name]:g} " for name in changed)


def _contrast(recipe: dict[str, Any], seen: str) -> str:
    if not recipe["contrast_weight"]:
        return ""
    steps, rate = recipe["contrast_steps"], recipe["tower_rate"]
    first = (
        f" The first {steps} steps train CLIP's two towers alone, which afterwards learn at {rate:g} times "
        "the rate of the rest."
    )
    return (
        f" Beside it, with weight {recipe['contrast_weight']:g}, CLIP's symmetric contrastive loss between "
        f"{seen} and the scene's caption.{first if steps else ''}"
    )


def _spacing(recipe: dict[str, Any]) -> str:
    least = recipe["least_spacing"]
    if least == 1:
        return ""
    return f" In every\nsecond example, neighbouring visual tokens stand {least:g} to 1 positions apart."


def _curve(record: dict[str, Any]) -> str:
    curve = record["curve"]
    stride = max(1, -(-len(curve) // _CURVE_ROWS))
    rows = [
        [
            point["step"],
            f"{point['seconds'] / 60:.1f}",
            f"{point['images']:,}",
            f"{point['loss']:.3f}",
            f"{100 * point['questions']:.1f}",
            f"{100 * point['accuracy'].get('caption', 0):.1f}",
            f"{100 * point['retrieval']['pictures_found'] / point['retrieval']['pairs']:.1f}",
        ]
        for point in curve[::-stride][::-1]
    ]
    header = [
        "step",
        "minute",
        "images",
        "loss",
        "questions right, %",
        "captions word for word, %",
        "pictures found, %",
    ]
    return "### Learning curve\n\nOn 256 held-out images.\n\n" + _table(header, rows)


def _accuracy(record: dict[str, Any]) -> str:
    held_out = record["held_out"]
    rows = ([kind, f"{100 * right / asked:.1f}", asked] for kind, (right, asked) in held_out["exact"].items())
    right, asked = held_out["caption_tokens"]
    caption_tokens = right / max(asked, 1)
    return f"""## Accuracy by kind of question

Exact match of the greedy answer on {held_out["examples"]} held-out images (validation split), with the
weights stored here. All questions: {held_out["questions"]:.1%}. Tokens of captions, given the words before:
{caption_tokens:.1%}; an image has several right captions, so that few are met word for word even by a model
that sees everything.

{_table(["kind", "right, %", "asked"], rows)}"""


def _acceptance(name: str, content: dict[str, Any]) -> str:
    rows = [
        [
            row["benchmark"],
            *(f"{row[key]:.1f}" for key in ("score", "attainable", "share", "blind")),
            row["chance"],
            "yes" if row["passed"] else "no",
        ]
        for row in content["rows"]
        if row["model"] == name
    ]
    if not rows:
        raise DyrateError(f"the acceptance table has no rows of {name!r}")
    header = ["benchmark", "score", "attainable", "share, %", "no image", "chance", "within bounds"]
    seen = [entry for entry in content["eyes"] if entry["model"] == name]
    return (
        f"## Acceptance\n\nUnpruned scores on the testbed's benchmarks, {content['samples']} samples each, "
        "and those of the same model given no visual token. `dyrate testbed accept` makes this table.\n\n"
        + _table(header, rows)
        + "".join(map(_eyes, seen))
    )


def _eyes(entry: dict[str, Any]) -> str:
    found = entry["retrieval"]
    rows = (
        [
            row["rate"],
            f"{row['class_attention']:.1f}",
            f"{row['random']:.1f}",
            f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]",
        ]
        for row in entry["rates"]
    )
    return (
        "\n\nShare of these scores that is kept, mean over the benchmarks, where a share R of the visual "
        "tokens is dropped: by the class token's attention in the tower's second-last layer (`fastervlm`), "
        "and by chance (`random`, layer 0).\n\n"
        + _table(["R", "class attention, %", "random, %", "difference, 95% interval"], rows)
        + f"\n\nOf {found['pairs']} held-out scenes, {found['pictures_found']} are found by their caption "
        f"among all, and {found['captions_found']} captions by their scene."
    )
