"""The local benchmarks as files, the same bytes for the same seed.

A benchmark is a sequence of groups: one item, or items that belong together (a pair, a question's rotations).
A group depends on the seed and its number alone, so that a smaller build is the beginning of a larger one.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.testbed.benchmarks.item import Item, resized
from dyrate.testbed.benchmarks.schemas import COLUMNS, ORACLE_COLUMNS
from dyrate.testbed.benchmarks.specs import BENCHMARKS
from dyrate.testbed.world.draw import Draw

ROWS_PER_GROUP = 64
"""Rows of a parquet row group; fixed, so that the same rows give the same bytes."""


def build(
    benchmarks: Iterable[str], samples: int, seed: int, output_dir: str | Path, sides: Sequence[int] = ()
) -> list[Path]:
    """Write `<benchmark>.parquet` and `<benchmark>.oracle.parquet` of each benchmark; return the former.

    `samples` is the number of rows; groups are kept whole, so a benchmark of pairs or rotations may have a
    few more. With `sides`, each image is resized to a square of one of these, in pixels, drawn by what it
    shows. The same arguments give the same bytes. Raises DyrateError for an unknown benchmark, for a number
    of samples below 1, and for a side that is none.
    """
    names = list(benchmarks)
    for name in names:
        if name not in BENCHMARKS:
            close = get_close_matches(name, BENCHMARKS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(BENCHMARKS)}"
            raise DyrateError(f"unknown benchmark {name!r}: {hint}")
    if samples < 1:
        raise DyrateError(f"cannot build benchmarks of {samples} samples: at least 1 is needed")
    if sides and min(sides) < 1:
        raise DyrateError(f"sides: an image cannot be {min(sides)} pixels wide: at least 1 is needed")
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        path = output_dir / f"{name}.parquet"
        items = tqdm(rows(name, samples, seed), desc=name, total=samples, unit="row", leave=False)
        _write(name, (resized(item, sides) for item in items), path)
        paths.append(path)
    return paths


def rows(benchmark: str, samples: int, seed: int) -> Iterator[Item]:
    """Yield the benchmark's first rows, at least `samples`, up to the end of a group."""
    spec = BENCHMARKS[benchmark]
    made = index = 0
    while made < samples:
        items = spec.maker(spec, Draw("benchmark", benchmark, seed, index), index)
        yield from items
        made, index = made + len(items), index + 1


def _write(benchmark: str, items: Iterator[Item], path: Path) -> None:
    schema = COLUMNS[benchmark].arrow_schema
    oracle: list[dict[str, Any]] = []
    with files.replacing(path) as new, pq.ParquetWriter(new, schema, compression="none") as writer:
        while group := list(itertools.islice(items, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist([item.row for item in group], schema))
            for doc_id, item in enumerate(group, start=len(oracle)):
                oracle.append(
                    {"doc_id": doc_id, "kind": item.kind, "domain": item.domain, "answer": item.answer}
                )
    with files.replacing(path.with_suffix(".oracle.parquet")) as new:
        pq.write_table(pa.Table.from_pylist(oracle, ORACLE_COLUMNS.arrow_schema), new)
