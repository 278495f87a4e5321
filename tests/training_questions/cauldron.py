"""The Cauldron in small: its subsets' folders, files and columns, filled with the testbed's scenes."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from dyrate.testbed.world.examples import training_example

FEATURES = Features(
    {
        "images": List(Image()),
        "texts": [{name: Value("string") for name in ("user", "assistant", "source")}],
    }
)
Row = tuple[Sequence[bytes], Sequence[tuple[str, str]]]
"""Encoded images; (user, assistant) of each turn."""


def encoded(image: PILImage.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scenes(count: int, seed: int = 4321) -> list[PILImage.Image]:
    """Scenes that no benchmark of the testbed has; without photographs that show nothing but noise."""
    found = (training_example(seed, index) for index in range(2 * count))
    clear = [one.image for one in found if any(turn.kind == "caption" for turn in one.turns)]
    return [PILImage.fromarray(image) for image in clear[:count]]


def row(image: bytes, number: int = 0) -> Row:
    """An image with two questions, as both subsets may have one."""
    turns = [
        (f"What is thing {number}?\nGive a very brief answer.", "A cube."),
        (f"How many {number}?\nShort answer required.", "2."),
    ]
    return [image], turns


def save(folder: Path, subsets: Mapping[str, Sequence[Row]], files: int = 2) -> Path:
    """Write subsets as the hub has them, each in a few parquet files, and the README that names them."""
    for name, rows in subsets.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(files):
            entries = [
                {
                    "images": [{"bytes": image, "path": None} for image in images],
                    "texts": [{"user": user, "assistant": said, "source": name} for user, said in turns],
                }
                for images, turns in rows[number::files]
            ]
            path = folder / name / f"train-{number:05}-of-{files:05}-0123456789abcdef.parquet"
            Dataset.from_list(entries, features=FEATURES).to_parquet(path)
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        for name in subsets
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder
