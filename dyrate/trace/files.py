"""The files of one trace: class mass as two parquet tables, and a summary as JSON. Imports no torch.

`testbed-s.parquet` has a line per (benchmark, sample, step, layer), heads averaged; `testbed-s.heads.parquet`
one per (benchmark, step, layer, head), mean over the samples whose answer gets that far. Equal traces give
equal bytes: no times and no dates.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.evaluation.results import Meta

SCHEMA, VERSION = "dyrate.trace", 1
CLASSES = ("sys", "img", "ins", "res")

Quantity = Literal["img", "res", "img_of_prompt"]


class TraceError(DyrateError):
    """A trace file that is not one: the message has one line per problem, each naming file and key."""


class Estimate(TypedDict):
    """A mean over samples with its 95% interval; no bounds where the samples say nothing about the spread."""

    value: float
    low: float | None
    high: float | None


class Trend(TypedDict):
    """How a share of attention moves between the first step of an answer and its last quarter."""

    first: float  # at step 0
    last: float  # over the last quarter of each answer's steps
    difference: Estimate  # last - first, paired per sample
    rank_correlation: Estimate  # Spearman's, of share and step, per sample
    slope: Estimate  # least squares, per sample: change per step
    never_rises: Estimate  # percentage of samples in which no step is above the one before
    never_falls: Estimate


class Band(TypedDict):
    """A mean over samples at each step, with its 95% interval."""

    mean: list[float]
    low: list[float | None]
    high: list[float | None]


class Curve(TypedDict):
    """Attention by step, mean over layers and over the samples whose answer gets that far."""

    samples: list[int]
    img: Band
    res: Band


class TracedBenchmark(TypedDict):
    """One benchmark of a trace."""

    task: str  # lmms-eval task name
    samples: int
    growing: int  # of them, with an answer long enough to have a trend
    steps: float  # per answer, mean: the end token's step is one
    trends: dict[Quantity, Trend] | None  # null where most answers are too short to grow
    curve: Curve
    img_by_layer: list[list[float]]  # image mass by step and layer


class Summary(TypedDict):
    """What the JSON file holds."""

    schema: str  # "dyrate.trace"
    version: int
    study: str
    model: str
    layers: int
    heads: int
    benchmarks: dict[str, TracedBenchmark]
    meta: Meta


@dataclass(frozen=True)
class TraceFiles:
    """The three files, named by the summary's path."""

    summary: Path

    @classmethod
    def of(cls, summary: Path) -> Self:
        """Check `--output`; raises `DyrateError` for a name that is no JSON file's."""
        if summary.suffix != ".json" or summary.is_dir():
            raise DyrateError(f"--output {summary}: name a .json file, such as results/try/testbed-s.json")
        return cls(summary)

    @classmethod
    def in_study(cls, study: str, model: str) -> Self:
        """Where a study keeps the trace of a model."""
        return cls(Path("results", study, "trace", f"{model}.json"))

    @property
    def mass(self) -> Path:
        """Class mass per sample, heads averaged."""
        return self.summary.with_suffix(".parquet")

    @property
    def heads(self) -> Path:
        """Class mass per head, samples averaged."""
        return self.summary.with_suffix(".heads.parquet")


def write_summary(path: Path, summary: Summary) -> None:
    """Check a summary and write it atomically."""
    _check(path, summary)
    files.write_json(path, cast("Mapping[str, Any]", summary))


def read_summary(path: Path) -> Summary:
    """Read and check a summary; raises `DyrateError` with one line per problem, and for tables beside it that
    are another trace's.
    """
    summary = files.read_json(path, TraceError)
    _check(path, summary)
    hashes, beside = summary["meta"].get("hashes", {}), TraceFiles(path)
    for key, table in (("mass", beside.mass), ("heads", beside.heads)):
        if key in hashes and table.exists() and hashes[key] != files.digest(files.read_bytes(table)):
            raise TraceError(f"{table}: is not of the trace that {path} sums up; run `dyrate trace` again")
    return cast(Summary, summary)


def write_mass(path: Path, masses: Mapping[str, Mapping[int, NDArray[np.float32]]]) -> str:
    """Write each benchmark's class mass, [steps, layers, 4] per sample; returns the sha256 of the file."""
    return _write(
        path,
        [
            _lines(mass, ("step", "layer"), benchmark=benchmark, sample=sample)
            for benchmark, samples in masses.items()
            for sample, mass in samples.items()
        ],
    )


def write_heads(path: Path, masses: Mapping[str, NDArray[np.float32]]) -> str:
    """Write each benchmark's mean class mass, [steps, layers, heads, 4]; returns the sha256 of the file."""
    return _write(
        path,
        [_lines(mass, ("step", "layer", "head"), benchmark=benchmark) for benchmark, mass in masses.items()],
    )


def _lines(mass: NDArray[np.float32], axes: Sequence[str], **constants: str | int) -> pa.Table:
    """One line per entry of all axes but the last, which holds the four classes."""
    *shape, _ = mass.shape
    places = np.indices(shape, np.int32).reshape(len(axes), -1)
    columns: dict[str, Any] = {name: pa.repeat(value, places.shape[1]) for name, value in constants.items()}
    columns |= dict(zip(axes, places, strict=True))
    columns |= dict(zip(CLASSES, np.ascontiguousarray(mass.reshape(-1, len(CLASSES)).T), strict=True))
    return pa.table(columns)


def _write(path: Path, tables: Sequence[pa.Table]) -> str:
    table = pa.concat_tables(tables).replace_schema_metadata({"schema": SCHEMA, "version": str(VERSION)})
    with files.replacing(path) as temporary:
        pq.write_table(table, temporary)
        return files.digest(temporary.read_bytes())


@cache
def _schema() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("trace.schema.json").read_text("utf-8")
    return cast(dict[str, Any], json.loads(text))


def _check(path: Path, summary: object) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(_schema())
    errors = sorted(validator.iter_errors(summary), key=lambda error: [str(key) for key in error.path])
    if errors:
        lines = [f"{path}: {'.'.join(map(str, e.path)) or '(top level)'}: {e.message}" for e in errors]
        raise TraceError("\n".join(lines))
