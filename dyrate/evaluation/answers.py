"""The answers file: one line per sample, beside its result."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.evaluation.results import Result
from dyrate.evaluation.scoring import Sample

OPTIONAL = ("category",)
"""Columns that older files lack."""
_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("doc_id", pa.int64()),
        ("unit", pa.string()),
        ("stratum", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("references", pa.string()),  # JSON list
        ("scores", pa.string()),  # JSON object
        ("category", pa.string()),
    ],
    metadata={"schema": "dyrate.answers", "version": "1"},
)


def write(path: Path, samples: Mapping[str, Sequence[Sample]]) -> str:
    """Write the samples of each benchmark; equal samples give equal bytes. Returns their `digest`."""
    lines = [
        {
            "benchmark": benchmark,
            **asdict(sample),
            "references": json.dumps(sample.references, ensure_ascii=False),
            "scores": json.dumps(sample.scores, sort_keys=True),
        }
        for benchmark, answered in samples.items()
        for sample in answered
    ]
    with files.replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(lines, schema=_SCHEMA), temporary)
    return digest(lines)


def digest(lines: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of what an answers file says, line by line, whatever the version of parquet."""
    return files.digest("\n".join(json.dumps(line, sort_keys=True) for line in lines).encode())


def read(path: Path, result: Result | None = None) -> dict[str, list[Sample]]:
    """Read the samples of each benchmark, those that `result` scores where it is given.

    Raises `DyrateError` for a missing or foreign file, and for one with other answers than the result's (a
    result of another producer need not say which are its own).
    """
    lines = read_lines(path, _SCHEMA, "a baseline needs its answers beside its result")
    samples: dict[str, list[Sample]] = {}
    for number, line in enumerate(lines):
        where = f"{path}: row {number}"
        references = files.parse_json(line["references"], f"{where}: references")
        scores = files.parse_json(line["scores"], f"{where}: scores")
        if not (isinstance(references, list) and all(isinstance(one, str) for one in references)):
            raise DyrateError(f"{where}: references: should be a list of texts")
        if not (isinstance(scores, dict) and all(isinstance(one, int | float) for one in scores.values())):
            raise DyrateError(f"{where}: scores: should be numbers by name")
        named = {key: value for key, value in line.items() if key != "benchmark"}
        sample = Sample(**{**named, "references": references, "scores": scores})
        samples.setdefault(line["benchmark"], []).append(sample)
    if result is not None and (wanted := result["meta"].get("hashes", {}).get("answers")):
        counts = {name: found["samples"] for name, found in result["benchmarks"].items()}
        found = {name: len(answered) for name, answered in samples.items()}
        if counts != found or wanted != digest(lines):
            raise DyrateError(
                f"{path}: holds other answers than those that the result beside it scores; evaluate it again"
            )
    return samples


def read_lines(path: Path, schema: pa.Schema, origin: str) -> list[dict[str, Any]]:
    """Read a parquet file whose rows have a value in each column of `schema` but the optional ones.

    Raises `DyrateError`, which ends in the file's `origin` where there is none.
    """
    if not path.exists():
        raise DyrateError(f"{path}: no such file; {origin}")
    try:
        table = pq.read_table(pa.BufferReader(files.read_bytes(path)))
        names = [name for name in schema.names if name in table.column_names or name not in OPTIONAL]
        if missing := [name for name in names if name not in table.column_names]:
            raise DyrateError(f"{path}: column {missing[0]!r} is missing; {origin}")
        table = table.select(names).cast(pa.schema([schema.field(name) for name in names]))
    except (pa.ArrowException, OSError) as error:
        raise DyrateError(f"{path}: cannot be read as parquet: {error}; {origin}") from None
    if empty := [name for name in names if table.column(name).null_count]:
        raise DyrateError(f"{path}: column {empty[0]!r} has rows without a value")
    lines: list[dict[str, Any]] = table.to_pylist()
    return lines
