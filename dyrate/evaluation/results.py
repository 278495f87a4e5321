"""The result files: what one (study, model, method, decoding) leaves behind, read, checked and written here.

Four files lie beside each other, all named after the decoding strategy: `greedy.json` (the result; a pure
function of its inputs, so no times and no dates), `greedy.run.json` (when, where and how fast),
`greedy.answers.parquet` (one line per sample) and `greedy.log.jsonl` (the response log). This module knows
the first two; it imports no torch.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast, get_origin, get_type_hints

from dyrate import files
from dyrate.errors import DyrateError

SCHEMA = "dyrate.result"
VERSION = 1
RUN_SCHEMA = "dyrate.run"
_RUN_TYPES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer", "minimum": 0},
    float: {"type": "number", "minimum": 0},
    dict: {"type": "object"},
}


class ResultError(DyrateError):
    """A result file that is not one: the message has one line per problem, each naming file and key."""


class Score(TypedDict):
    """One metric of one benchmark."""

    value: float  # as lmms-eval's own aggregation gives it, in `unit`
    low: float | None  # 95% interval; null for METEOR and BLEU, and where the units show no spread
    high: float | None
    unit: str  # "percent", "points" (MME), "x100" (caption metrics times 100)
    higher_is_better: bool | None  # null where neither end is better (POPE's yes ratio)


class Difference(TypedDict):
    """A metric minus the baseline's, paired: both evaluated on the same resampled units."""

    value: float
    low: float | None
    high: float | None


class VisualTokens(TypedDict):
    """True means of visual tokens per decoder layer, over the samples that carry an image."""

    total: float  # visual tokens that the vision tower hands over, mean over samples
    prefill: list[float]  # kept on entering each layer at prefill
    decode: list[float] | None  # attended per layer, over samples and decode steps; null if no step was made


class BenchmarkResult(TypedDict):
    """One benchmark of a result."""

    task: str  # lmms-eval task name
    samples: int
    units: NotRequired[int]  # what the bootstrap resamples: samples, MME pairs, MMB circular groups
    primary: str  # key in `scores` that the tables show
    scores: dict[str, Score]
    difference: dict[str, Difference] | None  # null when there is no baseline
    visual_tokens: VisualTokens | None  # null where the producer does not know
    work: NotRequired[dict[str, Any] | None]  # sums over the samples, as `dyrate.cost.work.Phases` has them


class Hashes(TypedDict, total=False):
    """sha256 of what the result depends on, and of the answers that it scores."""

    weights: str  # weights, configuration and tokenizer of the checkpoint
    data: dict[str, str]  # per benchmark: its parquet file, or the dataset's fingerprint
    code: str  # the runtime, the method's own file and the evaluation
    method: str  # of the files that the method's spec names, such as a trained predictor; absent if none
    answers: str  # what the answers file says, `dyrate.evaluation.answers.digest`
    mass: str  # of a trace: its two tables
    heads: str


class Meta(TypedDict):
    """How a result came about; nothing here depends on time."""

    command: str  # reproduces the file
    seed: int
    device: str  # "cpu" or the accelerator's name
    dtype: str
    engine: NotRequired[str]  # "transformers", or "graph": this package's own
    batch_size: NotRequired[int]
    samples: NotRequired[int | None]  # the limit per benchmark that was asked for; null for all
    commit: NotRequired[str | None]  # null outside a git checkout
    versions: NotRequired[dict[str, str]]
    hashes: NotRequired[Hashes]
    bootstrap: NotRequired[dict[str, Any]]  # level, resamples, seed


class Result(TypedDict):
    """One evaluated (study, model, method, decoding)."""

    schema: str  # "dyrate.result"
    version: int
    study: str
    model: str
    method: dict[str, Any]  # {"name": ..., hyperparameters}
    label: str  # "FastV (K=2, R=0.5)"
    decoding: dict[str, Any]  # {"name": ..., generation arguments}
    benchmarks: dict[str, BenchmarkResult]
    shape: NotRequired[dict[str, dict[str, int]]]  # the model's sizes, `dyrate.cost.shapes.ModelShape`
    meta: Meta


class RunInformation(TypedDict):
    """Time and place of a run: everything that may differ when the result does not."""

    schema: str  # "dyrate.run"
    version: int
    date: str  # ISO 8601, UTC
    result: NotRequired[str]  # sha256 of the result file
    wall_seconds: float  # of the whole job, start-up included
    generate_seconds: float  # in the model
    samples: int
    samples_per_second: float  # samples generated in this run / generate_seconds; 0 if all came from the log
    reused_samples: int  # answers that came from the response log
    seconds: dict[str, float]  # generation per benchmark
    stages: dict[str, float]  # wall seconds: load, tasks, generate, score
    host: dict[str, Any]  # system, processor, cores, threads, device


@dataclass(frozen=True)
class ResultFiles:
    """The four files of one result in `directory`."""

    directory: Path
    decoding: str

    @property
    def result(self) -> Path:
        """The scores."""
        return self.directory / f"{self.decoding}.json"

    @property
    def run(self) -> Path:
        """Time and place."""
        return self.directory / f"{self.decoding}.run.json"

    @property
    def answers(self) -> Path:
        """One line per sample."""
        return self.directory / f"{self.decoding}.answers.parquet"

    @property
    def log(self) -> Path:
        """The response log."""
        return self.directory / f"{self.decoding}.log.jsonl"

    @classmethod
    def beside(cls, result: Path) -> "ResultFiles":
        """The files that lie beside a result JSON."""
        return cls(result.parent, result.name.removesuffix(".json"))


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of a result file."""
    text = resources.files(__package__).joinpath("result.schema.json").read_text("utf-8")
    return cast(dict[str, Any], json.loads(text))


def problems(result: object) -> Iterator[str]:
    """Yield one line, `key: what is wrong`, for each way in which `result` is not a valid result."""
    import jsonschema

    if isinstance(result, Mapping):
        if result.get("schema") != SCHEMA:
            yield f"schema: is {result.get('schema')!r}, should be {SCHEMA!r}"
            return
        if result.get("version") != VERSION:
            yield f"version: is {result.get('version')!r}; this dyrate reads version {VERSION}"
            return
    validator = jsonschema.Draft202012Validator(schema())
    errors = sorted(validator.iter_errors(result), key=lambda error: [str(key) for key in error.path])
    for error in errors:
        yield f"{'.'.join(map(str, error.path)) or '(top level)'}: {error.message}"
    if errors:
        return
    for name, benchmark in cast(Result, result)["benchmarks"].items():
        if benchmark["primary"] not in benchmark["scores"]:
            yield (
                f"benchmarks.{name}.primary: {benchmark['primary']!r} is not in scores, "
                f"which has {', '.join(benchmark['scores'])}"
            )
        intervals: dict[str, Score | Difference] = {
            **{f"scores.{metric}": score for metric, score in benchmark["scores"].items()},
            **{f"difference.{metric}": value for metric, value in (benchmark["difference"] or {}).items()},
        }
        for key, interval in intervals.items():
            low, high = interval["low"], interval["high"]
            if (low is None) != (high is None) or (low is not None and high is not None and low > high):
                yield f"benchmarks.{name}.{key}: [{low}, {high}] is not an interval"


def _check(path: Path, result: object) -> None:
    if lines := [f"{path}: {line}" for line in problems(result)]:
        raise ResultError("\n".join(lines))


def read(path: str | Path) -> Result:
    """Read and check a result file; raises `ResultError` with one line per problem."""
    path = Path(path)
    result = files.read_json(path, ResultError)
    _check(path, result)
    return cast(Result, result)


def write(path: str | Path, result: Result) -> None:
    """Check a result and write it atomically; equal results give equal bytes."""
    path = Path(path)
    _check(path, result)
    files.write_json(path, result)


def read_run(path: str | Path, result: Path | None = None) -> RunInformation:
    """Read run information; raises `ResultError`, also where `result` is another file than its own."""
    path = Path(path)
    run = files.read_json(path, ResultError)
    if not isinstance(run, dict) or run.get("schema") != RUN_SCHEMA:
        raise ResultError(f"{path}: schema: should be {RUN_SCHEMA!r}")
    if run.get("version") != VERSION:
        raise ResultError(f"{path}: version: is {run.get('version')!r}; this dyrate reads version {VERSION}")
    if missing := sorted(RunInformation.__required_keys__ - run.keys()):
        raise ResultError(f"{path}: {', '.join(missing)}: missing")
    import jsonschema

    fields = {
        key: _RUN_TYPES[get_origin(kind) or kind] for key, kind in get_type_hints(RunInformation).items()
    }
    validator = jsonschema.Draft202012Validator({"properties": fields})
    errors = sorted(validator.iter_errors(run), key=lambda error: [str(key) for key in error.path])
    lines = [f"{'.'.join(map(str, error.path))}: {error.message}" for error in errors]
    if lines := lines or list(_run_problems(cast(RunInformation, run), result)):
        raise ResultError("\n".join(f"{path}: {line}" for line in lines))
    return cast(RunInformation, run)


def _run_problems(run: RunInformation, result: Path | None) -> Iterator[str]:
    """What the types of run information cannot say."""
    try:
        date = datetime.fromisoformat(run["date"])
    except ValueError:
        yield f"date: {run['date']!r} is no date such as 2026-01-31T12:00:00+00:00"
    else:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        if date.replace(tzinfo=date.tzinfo or UTC) > tomorrow:
            yield f"date: {run['date']} is in the future"
    if run["generate_seconds"] > run["wall_seconds"]:
        yield f"generate_seconds: {run['generate_seconds']}, but the whole job took {run['wall_seconds']}"
    if run["reused_samples"] > run["samples"]:
        yield f"reused_samples: {run['reused_samples']} of {run['samples']}"
    for key in ("seconds", "stages"):
        for name, seconds in cast(dict[str, dict[str, Any]], run)[key].items():
            if not (isinstance(seconds, int | float) and seconds >= 0):
                yield f"{key}.{name}: {seconds!r} is no number of seconds"
    if result is not None and run.get("result") not in (None, files.digest(files.read_bytes(result))):
        yield f"result: is of another content of {result}, which was changed or copied; evaluate it again"


def write_run(path: str | Path, run: RunInformation) -> None:
    """Write the run information atomically."""
    files.write_json(Path(path), run)
