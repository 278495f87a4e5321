"""The answers file: one line per sample, beside its result."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dyrate.errors import DyrateError
from dyrate.evaluation.scoring import Sample

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
    ],
    metadata={"schema": "dyrate.answers", "version": "1"},
)


def write(path: Path, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Write the samples of each benchmark; equal samples give equal bytes."""
    lines = [
        {
            "benchmark": benchmark,
            "doc_id": sample.doc_id,
            "unit": sample.unit,
            "stratum": sample.stratum,
            "prompt": sample.prompt,
            "answer": sample.answer,
            "references": json.dumps(sample.references, ensure_ascii=False),
            "scores": json.dumps(sample.scores, sort_keys=True),
        }
        for benchmark, answered in samples.items()
        for sample in answered
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(lines, schema=_SCHEMA), temporary)
    temporary.replace(path)


def read(path: Path) -> dict[str, list[Sample]]:
    """Read the samples of each benchmark; raises `DyrateError` for a missing or foreign file."""
    if not path.is_file():
        raise DyrateError(f"{path}: no such file; a baseline needs its answers beside its result")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DyrateError(f"{path}: cannot be read as parquet: {error}") from None
    if missing := [name for name in _SCHEMA.names if name not in table.column_names]:
        raise DyrateError(f"{path}: no answers file: column {missing[0]!r} is missing")
    samples: dict[str, list[Sample]] = {}
    for line in table.to_pylist():
        sample = Sample(
            doc_id=line["doc_id"],
            unit=line["unit"],
            stratum=line["stratum"],
            prompt=line["prompt"],
            answer=line["answer"],
            references=json.loads(line["references"]),
            scores=json.loads(line["scores"]),
        )
        samples.setdefault(line["benchmark"], []).append(sample)
    return samples
