"""The eleven local benchmarks: what each asks, how hard its scenes are, and their files.

A benchmark is a sequence of blocks: one row, or rows that belong together (a pair, a question's rotations).
A block depends on the seed and its number alone, so that a smaller build is the beginning of a larger one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.testbed.annotators import Crowd
from dyrate.testbed.blocks import MAKERS, Item, Plan
from dyrate.testbed.difficulty import DEFAULT, Difficulty
from dyrate.testbed.draw import Draw
from dyrate.testbed.schemas import COLUMNS, ORACLE_COLUMNS, features

CLEAR: Difficulty = replace(DEFAULT, strong=0.0)
"""The training distribution without the photos that show nothing."""

CROWDED: Difficulty = replace(
    CLEAR,
    things=(9, 12),
    sizes={"small": 0.6, "medium": 0.3, "large": 0.1},
    lookalike=0.45,
    occluded=0.5,
    noise=(12, 18),
    mild=0.5,
    blurs=(1.6, 2.0),
    dark=(60, 80),
)
"""The hard corner of the training distribution: a good model answers nearly everything elsewhere."""

BENCHMARKS: dict[str, Plan] = {
    "gqa": Plan(
        kinds={
            "existence": 1.0,
            "verify": 1.0,
            "choose": 1.0,
            "color": 1.2,
            "shape": 1.0,
            "texture": 0.6,
            "position": 0.8,
            "relation": 1.5,
            "neighbor": 1.8,
            "compare": 0.8,
            "scene": 0.4,
        },
        difficulty=replace(CROWDED, mild=0.7),
    ),
    "vizwiz": Plan(
        kinds={
            "color": 1.2,
            "shape": 0.8,
            "texture": 0.5,
            "count": 0.4,
            "scene": 0.3,
            "word": 1.2,
            "number": 1.0,
            "unanswerable": 0.8,
        },
        difficulty=replace(CROWDED, mild=0.7, strong=0.08, signs={0: 0.3, 1: 0.5, 2: 0.2}),
        crowd=Crowd(strays=0.12, contested=0.12, gives_up=0.2),
    ),
    "sqa": Plan(
        kinds={
            "hint": 6.0,
            "color": 0.6,
            "shape": 0.6,
            "texture": 0.4,
            "count": 0.8,
            "quadrant": 0.5,
            "neighbor": 1.0,
            "word": 0.3,
        },
        difficulty=CROWDED,
    ),
    "vqav2": Plan(
        kinds={
            "existence": 1.4,
            "verify": 1.4,
            "relation": 1.0,
            "count": 1.2,
            "color": 1.4,
            "shape": 1.0,
            "texture": 0.6,
            "size": 0.4,
            "scene": 0.5,
            "neighbor": 1.0,
            "word": 0.4,
        },
        difficulty=CROWDED,
        crowd=Crowd(strays=0.08, contested=0.05, gives_up=0.0),
    ),
    "textvqa": Plan(
        kinds={"word": 1.0, "number": 1.0},
        difficulty=replace(CROWDED, signs={1: 0.4, 2: 0.6}, mild=0.3),
        crowd=Crowd(strays=0.08, contested=0.05, gives_up=0.1),
    ),
    "pope": Plan(difficulty=replace(CROWDED, mild=1.0, noise=(16, 18))),
    "mmb": Plan(
        kinds={
            "color": 1.2,
            "shape": 1.0,
            "texture": 0.6,
            "count": 1.0,
            "quadrant": 0.8,
            "neighbor": 1.4,
            "scene": 0.4,
            "word": 0.8,
            "number": 0.8,
            "hint": 1.0,
        },
        difficulty=replace(CROWDED, mild=0.7),
    ),
    "mme": Plan(difficulty=replace(CROWDED, mild=1.0)),
    "nocaps": Plan(difficulty=replace(CLEAR, things=(4, 9))),
    "flickr30k": Plan(difficulty=replace(CLEAR, things=(5, 12), signs={0: 0.2, 1: 0.6, 2: 0.2})),
    "coco2017": Plan(difficulty=CLEAR),
}
"""What each benchmark asks: the constants to turn when a model finds it too easy or too hard."""

ROWS_PER_GROUP = 64
"""Rows of a parquet row group; fixed, so that the same rows give the same bytes."""


def build(benchmarks: Iterable[str], samples: int, seed: int, output_dir: str | Path) -> list[Path]:
    """Write `<benchmark>.parquet` and `<benchmark>.oracle.parquet` of each benchmark; return the former.

    `samples` is the number of rows; blocks are kept whole, so a benchmark of pairs or rotations may have a
    few more. The same arguments give the same bytes. Raises DyrateError for an unknown benchmark and for a
    number of samples below 1.
    """
    names = list(benchmarks)
    for name in names:
        if name not in BENCHMARKS:
            close = get_close_matches(name, BENCHMARKS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(BENCHMARKS)}"
            raise DyrateError(f"unknown benchmark {name!r}: {hint}")
    if samples < 1:
        raise DyrateError(f"cannot build benchmarks of {samples} samples: at least 1 is needed")
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        path = output_dir / f"{name}.parquet"
        items = tqdm(rows(name, samples, seed), desc=name, total=samples, unit="row", leave=False)
        _write(name, items, path)
        paths.append(path)
    return paths


def rows(benchmark: str, samples: int, seed: int) -> Iterator[Item]:
    """Yield the benchmark's first rows, at least `samples`, up to the end of a block."""
    made = index = 0
    while made < samples:
        block = MAKERS[benchmark](BENCHMARKS[benchmark], Draw("benchmark", benchmark, seed, index), index)
        yield from block
        made, index = made + len(block), index + 1


def _write(benchmark: str, items: Iterable[Item], path: Path) -> None:
    schema = features(COLUMNS[benchmark]).arrow_schema
    oracle = []
    with files.replacing(path) as new, pq.ParquetWriter(new, schema, compression="none") as writer:
        group: list[dict[str, Any]] = []
        for number, item in enumerate(items):
            oracle.append({"doc_id": number, "kind": item.kind, "domain": item.domain, "answer": item.answer})
            group.append(item.row)
            if len(group) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
    table = pa.Table.from_pylist(oracle, features(ORACLE_COLUMNS).arrow_schema)
    with files.replacing(path.with_suffix(".oracle.parquet")) as new:
        pq.write_table(table, new)
