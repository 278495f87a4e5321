"""A trained connector on disk, with the low-rank adapter of the language model that was trained with it, and
the tokenizer of the questions that it reads.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Strict
from tokenizers import Tokenizer
from torch import Tensor

from dyrate import files
from dyrate.connectors.connector import Connector, Sizes
from dyrate.connectors.registry import build
from dyrate.errors import DyrateError
from dyrate.trained import load_tensors, save_tensors
from dyrate.typed import Record

RECORD_FILE, WEIGHTS_FILE, WORDS_FILE = "connector.json", "connector.safetensors", "tokenizer.json"


class ConnectorRecord(Record):
    """What `connector.json` says."""

    connector: str
    """Its name."""
    fields: dict[str, Any]
    """What it was built with."""
    sizes: dict[str, int]
    """Of the models that it joins."""
    adapter: dict[str, Annotated[tuple[int, int], Strict(False)]]
    """Shapes of the adapter's matrices; see `Adapter`."""
    scaling: float
    """What their products are multiplied with."""
    model: str
    """The checkpoint that it was trained on: its folder, from this one."""
    base: str
    """The content hash of that checkpoint."""
    weights: str = "."
    """The folder that holds the weights, from this one: another, for the same with other fields."""
    sha256: str
    """Of the weights file."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Of the numbers in it."""
    words: str | None = None
    """The SHA-256 of `tokenizer.json` beside the weights, by which questions are read, special tokens and
    all; without it the language model's reads them, without special tokens.
    """
    training: dict[str, Any]
    """How it was trained, or what it was converted from."""


Adapter = Mapping[str, Tensor]
"""`NAME.A` [rank, in] and `NAME.B` [out, rank] for linear layers of the language model, by their names there:
their product, times the record's `scaling`, is added to the weight.
"""


class TrainedConnector(NamedTuple):
    """What a folder holds."""

    connector: Connector
    adapter: Adapter
    scaling: float
    words: Tokenizer | None = None
    """By which it reads questions, if not by the language model's."""

    def merge_into(self, model: Any) -> None:
        """Add the adapter to the language model's weights; a `DyrateError` for a layer that it lacks."""
        for name in sorted({name.rpartition(".")[0] for name in self.adapter}):
            try:
                weight = model.get_submodule(name).weight
            except AttributeError:
                raise DyrateError(
                    f"the adapter is of a layer {name}, which the language model lacks"
                ) from None
            low, high = self.adapter[f"{name}.A"], self.adapter[f"{name}.B"]
            if weight.shape != (high.shape[0], low.shape[1]):
                shapes = tuple(high.shape), tuple(low.shape), tuple(weight.shape)
                raise DyrateError(
                    f"the adapter of {name} is {shapes[0]} x {shapes[1]}, the layer's weight {shapes[2]}"
                )
            with torch.no_grad():
                weight += self.scaling * (high.float() @ low.float()).to(weight)


def save_connector(
    trained: TrainedConnector,
    folder: Path,
    model: Path,
    base: str,
    training: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a connector and its adapter, in a dtype, and their record: of the checkpoint `model`, whose
    content hash is `base`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    connector = trained.connector
    weights = {f"connector.{name}": part.to(dtype) for name, part in connector.state_dict().items()}
    weights |= {f"adapter.{name}": part.to(dtype) for name, part in trained.adapter.items()}
    words = None if trained.words is None else trained.words.to_str(pretty=True)
    if words is not None:
        files.write_text(folder / WORDS_FILE, words)
    record = {
        "sha256": save_tensors(weights, folder / WEIGHTS_FILE),
        "dtype": str(dtype).removeprefix("torch."),
        "words": None if words is None else files.digest(words.encode()),
        "connector": connector.name,
        "fields": connector.fields,
        "sizes": connector.sizes._asdict(),
        "adapter": {name: list(part.shape) for name, part in trained.adapter.items()},
        "scaling": trained.scaling,
        "model": os.path.relpath(model, folder),
        "base": base,
        "training": dict(training),
    }
    files.write_json(folder / RECORD_FILE, record)


def save_variant(folder: Path, of: Path, fields: Mapping[str, Any]) -> None:
    """Write the record of a trained connector with other fields, which uses the weights of `of`."""
    record = read_record(of).model_dump()
    folder.mkdir(parents=True, exist_ok=True)
    moved = {
        "fields": {**record["fields"], **fields},
        "weights": os.path.relpath(of, folder),
        "model": os.path.relpath(of / record["model"], folder),
    }
    files.write_json(folder / RECORD_FILE, {**record, **moved})


def read_record(folder: Path) -> ConnectorRecord:
    """Return a connector's record; a `DyrateError` names the file and what is wrong with it."""
    path = folder / RECORD_FILE
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise DyrateError(f"{path} holds a {type(found).__name__}: a connector's record is expected")
    return ConnectorRecord.of(found, lambda key: f"{path}: {key}")


def load_connector(folder: Path) -> TrainedConnector:
    """Return a trained connector in fp32, in evaluation mode, and its adapter.

    Raises `DyrateError` for a record or weights that are damaged, missing, not finite or of another
    connector.
    """
    record, path = read_record(folder), folder / RECORD_FILE
    if record.sizes.keys() != set(Sizes._fields):
        raise DyrateError(f"{path}: sizes: {record.sizes}; {', '.join(Sizes._fields)} are expected")
    try:
        with torch.random.fork_rng(devices=[]):  # of what is drawn here, whoever samples next notices nothing
            connector = build(record.connector, Sizes(**record.sizes), record.fields)
    except (DyrateError, TypeError, ValueError, RuntimeError) as error:
        raise DyrateError(f"{path}: {error}") from None
    dtype: torch.dtype = getattr(torch, record.dtype)
    wanted = {f"connector.{name}": part.to(dtype) for name, part in connector.state_dict().items()}
    wanted |= {f"adapter.{name}": torch.empty(shape, dtype=dtype) for name, shape in record.adapter.items()}
    place = folder / record.weights
    cure = "train or convert the connector again"
    weights = load_tensors(place / WEIGHTS_FILE, path, record.sha256, wanted, cure)
    parts: dict[str, dict[str, Tensor]] = {"connector": {}, "adapter": {}}
    for name, part in weights.items():
        kind, _, key = name.partition(".")
        parts[kind][key] = part.float()
    connector.load_state_dict(parts["connector"])
    words = None if record.words is None else _words(place / WORDS_FILE, path, record.words, connector)
    return TrainedConnector(connector.eval().requires_grad_(False), parts["adapter"], record.scaling, words)


def _words(path: Path, record: Path, hashed: str, connector: Connector) -> Tokenizer:
    """Return the tokenizer of questions, which cuts them to as many words as a connector reads."""
    text = files.read_bytes(path)
    if (found := files.digest(text)) != hashed:
        raise DyrateError(f"{record}: words: is {hashed!r}, but {path.name} beside the weights has {found}")
    tokenizer = Tokenizer.from_str(text.decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(connector.words, direction="left" if connector.keeps_end else "right")
    return tokenizer
