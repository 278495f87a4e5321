"""A place to break things in: a copy of a tiny checkpoint, of its benchmarks, and of a finished result."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Damage = Callable[["Place"], Any]


@dataclass(frozen=True)
class Place:
    """The files that a row of the matrix may damage before its command runs."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def predictor(self) -> Path:
        return self.folder / "predictor"

    def fill(self, arguments: str) -> list[str]:
        """The command line, with paths in the places of MODEL, DATA, OUTPUT, PREDICTOR and FOLDER."""
        for name in ("model", "data", "output", "predictor", "folder"):
            arguments = arguments.replace(name.upper(), str(getattr(self, name)))
        return arguments.split()


def nothing(place: Place) -> None:
    """Leave all as it is."""


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Damage:
    """Change the checkpoint's tensors in place."""

    def damage(place: Place) -> None:
        path = place.model / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return damage


def _named(tensors: dict[str, Tensor], part: str) -> list[str]:
    found = sorted(name for name in tensors if part in name)
    assert found, f"no tensor has {part!r} in its name"
    return found


def without(part: str) -> Damage:
    """Drop the tensors whose names contain `part`."""

    def drop(tensors: dict[str, Tensor]) -> None:
        for name in _named(tensors, part):
            del tensors[name]

    return weights(drop)


def renamed(old: str, new: str) -> Damage:
    """Give tensors other names."""

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in _named(tensors, old):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return weights(rename)


def poisoned(part: str, value: float) -> Damage:
    """Put `value` into one number of the first tensor whose name contains `part`."""

    def poison(tensors: dict[str, Tensor]) -> None:
        name = _named(tensors, part)[0]
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[1] = value

    return weights(poison)


def scaled(factor: float) -> Damage:
    """Multiply all weights, and store them in half precision."""

    def scale(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = (tensor * factor).clamp(-6e4, 6e4).to(torch.float16)

    return weights(scale)


def setting(file: str, key: str, value: Any) -> Damage:
    """Set `key`, dots lead inwards, of a JSON file of the checkpoint."""

    def change(place: Place) -> None:
        path = place.model / file
        document = json.loads(path.read_text()) if path.exists() else {}
        *outer, last = key.split(".")
        inner = document
        for name in outer:
            inner = inner[name]
        inner[last] = value
        path.write_text(json.dumps(document))

    return change


def cut(file: str, size: int = 40) -> Damage:
    """Cut a file of the place off after so many bytes."""

    def change(place: Place) -> None:
        path = place.folder / file
        path.write_bytes(path.read_bytes()[:size])

    return change


def missing(file: str) -> Damage:
    """Remove a file of the place."""
    return lambda place: (place.folder / file).unlink()


def replaced(file: str, old: str, new: str) -> Damage:
    """Replace text in a file of the place; it must stand there."""

    def change(place: Place) -> None:
        path = place.folder / file
        text = path.read_text("utf-8")
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1), "utf-8")

    return change


def copied(source: str, target: str) -> Damage:
    """Put a copy of a file in another's place."""

    def change(place: Place) -> None:
        (place.folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place.folder / source, place.folder / target)

    return change


def rows(benchmark: str, change: Callable[[list[dict[str, Any]]], Any]) -> Damage:
    """Change a benchmark's rows in place; their types stay."""

    def damage(place: Place) -> None:
        path = place.data / f"{benchmark}.parquet"
        table = pq.read_table(path)
        found = table.to_pylist()
        change(found)
        schema = pa.schema([field for field in table.schema if field.name in found[0]])
        features = json.loads(table.schema.metadata[b"huggingface"])
        kept = {name: kind for name, kind in features["info"]["features"].items() if name in found[0]}
        metadata = {"huggingface": json.dumps({"info": {"features": kept}})}
        pq.write_table(pa.Table.from_pylist(found, schema.with_metadata(metadata)), path)

    return damage


def column(benchmark: str, name: str, value: Any, row: int = 1) -> Damage:
    """Set one cell of a benchmark's row."""

    def change(found: list[dict[str, Any]]) -> None:
        found[row][name] = value

    return rows(benchmark, change)


def without_column(benchmark: str, name: str) -> Damage:
    """Drop a column of a benchmark."""

    def change(found: list[dict[str, Any]]) -> None:
        for one in found:
            del one[name]

    return rows(benchmark, change)


def written(file: str, text: str) -> Damage:
    """Write a file into the place."""

    def change(place: Place) -> None:
        path = place.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    return change


def edited(file: str, change: Callable[[str], str]) -> Damage:
    """Change the text of a file of the place."""

    def damage(place: Place) -> None:
        path = place.folder / file
        text = path.read_text("utf-8")
        assert change(text) != text
        path.write_text(change(text), "utf-8")

    return damage


def document(file: str, change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change a JSON document in place."""

    def damage(place: Place) -> None:
        path = place.folder / file
        content = json.loads(path.read_text("utf-8"))
        change(content)
        path.write_text(json.dumps(content), "utf-8")

    return damage


def linked(file: str) -> Damage:
    """Put a link to a file elsewhere in a file's place."""

    def damage(place: Place) -> None:
        path = place.folder / file
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        elsewhere = place.folder / "elsewhere"
        elsewhere.write_text("mine")
        path.symlink_to(elsewhere)

    return damage


def flipped(file: str) -> Damage:
    """Flip the last bit of a file of the place."""

    def damage(place: Place) -> None:
        path = place.folder / file
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return damage
