"""The files of one trace: class mass as two parquet tables, and a summary as JSON. Imports no torch.

`testbed-s.parquet` has a line per (benchmark, sample, step, layer), heads averaged; `testbed-s.heads.parquet`
one per (benchmark, step, layer, head), mean over the samples whose answer gets that far. Equal traces give
equal bytes: no times and no dates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, with_config
from typing_extensions import TypedDict

from dyrate import files, typed
from dyrate.errors import DyrateError
from dyrate.evaluation.results import CLOSED, IN_ORDER, Estimate, Meta
from dyrate.typed import Natural, NotEmpty, Positive, Text

SCHEMA: Final = "dyrate.trace"
VERSION: Final = 1
CLASSES = ("sys", "img", "ins", "res")

Quantity = Literal["img", "res", "img_of_prompt"]
Share = Annotated[float, Field(ge=-1e-6, le=1 + 1e-6)]
Interval = Annotated[Estimate, IN_ORDER]


class TraceError(DyrateError):
    """A trace file that is not one: the message has one line per problem, each naming file and key."""


class Trend(TypedDict):
    """How a share of attention moves between the first step of an answer and its last quarter."""

    first: Share  # at step 0
    last: Share  # over the last quarter of each answer's steps
    difference: Interval  # last - first, paired per sample
    rank_correlation: Interval  # Spearman's, of share and step, per sample
    slope: Interval  # least squares, per sample: change per step
    never_rises: Interval  # percentage of samples in which no step is above the one before
    never_falls: Interval


class Trends(TypedDict):
    """The trend of each quantity."""

    img: Trend
    res: Trend
    img_of_prompt: Trend


class Band(TypedDict):
    """A mean over samples at each step, with its 95% interval."""

    mean: list[Share]
    low: list[float | None]
    high: list[float | None]


class Curve(TypedDict):
    """Attention by step, mean over layers and over the samples whose answer gets that far."""

    samples: Annotated[list[Positive], NotEmpty]
    img: Band
    res: Band


class TracedBenchmark(TypedDict):
    """One benchmark of a trace."""

    task: str  # lmms-eval task name
    samples: Natural
    growing: Natural  # of them, with an answer long enough to have a trend
    steps: Annotated[float, Field(ge=1)]  # per answer, mean: the end token's step is one
    trends: Trends | None  # null where most answers are too short to grow
    curve: Curve
    img_by_layer: Annotated[list[list[Share]], NotEmpty]  # image mass by step and layer


@with_config(CLOSED)
class Summary(TypedDict):
    """What the JSON file holds."""

    schema: Literal["dyrate.trace"]
    version: Literal[1]
    study: Text
    model: Text
    layers: Positive
    heads: Positive
    benchmarks: Annotated[dict[str, TracedBenchmark], NotEmpty]
    failed: NotRequired[Annotated[dict[str, Text], NotEmpty]]  # of a partial one: why others are not there
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

    @property
    def partial(self) -> "TraceFiles":
        """Where what there is stands while benchmarks are missing."""
        return TraceFiles(self.summary.with_suffix(".partial.json"))

    def remove(self) -> None:
        """Remove all of them."""
        for path in (self.summary, self.mass, self.heads):
            path.unlink(missing_ok=True)


def write_summary(path: Path, summary: Summary) -> None:
    """Check a summary and write it atomically."""
    typed.write(Summary, path, summary, TraceError)


def read_summary(path: Path) -> Summary:
    """Read and check a summary; raises `DyrateError` with one line per problem, and for tables beside it that
    are another trace's.
    """
    summary = typed.read(Summary, path, TraceError)
    hashes, beside = summary["meta"].get("hashes", {}), TraceFiles(path)
    for known, table in ((hashes.get("mass"), beside.mass), (hashes.get("heads"), beside.heads)):
        if known is not None and table.exists() and known != files.digest(files.read_bytes(table)):
            raise TraceError(f"{table}: is not of the trace that {path} sums up; run `dyrate trace` again")
    return summary


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
