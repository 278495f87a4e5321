"""The result files: what one (study, model, method, decoding) leaves behind, read, checked and written here.

Four files lie beside each other, all named after the decoding strategy: `greedy.json` (the result; a pure
function of its inputs, so no times and no dates), `greedy.run.json` (when, where and how fast),
`greedy.answers.parquet` (one line per sample) and `greedy.log.jsonl` (the response log). Where a benchmark
failed, what there is of the others is named `greedy.partial.json` and so on: a `greedy.json` is whole. This
module knows the first two; it imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, GetPydanticSchema, with_config
from typing_extensions import TypedDict

from dyrate import files, typed
from dyrate.errors import DyrateError
from dyrate.typed import Amount, Natural, NotEmpty, Origin, Positive, Record, Text

SCHEMA: Final = "dyrate.result"
VERSION: Final = 1
CLOSED = Record.model_config
"""Of a file, and of all in it that is not `OPEN`: values are taken as they are, with no unknown keys."""
OPEN: ConfigDict = {**CLOSED, "extra": "allow"}


class ResultError(DyrateError):
    """A result file that is not one: the message has one line per problem, each naming file and key."""


class Estimate(TypedDict):
    """A number with its 95% interval; no bounds where the units say nothing about the spread."""

    value: float
    low: float | None
    high: float | None


class Score(Estimate):
    """One metric of one benchmark: as lmms-eval's own aggregation gives it, in `unit`.

    METEOR and BLEU have no interval.
    """

    unit: Text  # "percent", "points" (MME), "x100" (caption metrics times 100)
    higher_is_better: bool | None  # null where neither end is better (POPE's yes ratio)


class Difference(Estimate):
    """A metric minus the baseline's, paired: both evaluated on the same resampled units."""


def _in_order(estimate: Estimate) -> Estimate:
    low, high = estimate["low"], estimate["high"]
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        raise ValueError(f"[{low}, {high}] is not an interval")
    return estimate


IN_ORDER = AfterValidator(_in_order)
"""Of an `Estimate`: both bounds or none, the lower one first."""


class Steps(TypedDict):
    """Visual tokens by step of an answer, the prompt's first, over the answers that get that far."""

    answers: Annotated[list[Positive], NotEmpty]
    mean: Annotated[list[Annotated[list[Amount], NotEmpty]], NotEmpty]  # attended, by step and layer
    deviation: Annotated[list[Amount], NotEmpty]  # standard, over answers, of what the last layer attends to


class VisualTokens(TypedDict):
    """True means of visual tokens per decoder layer, over the samples that carry an image."""

    total: Amount  # visual tokens that the vision tower hands over, mean over samples
    prefill: Annotated[list[Amount], NotEmpty]  # kept on entering each layer at prefill
    # Attended per layer, over samples and decode steps; null if no step was made.
    decode: Annotated[list[Amount], NotEmpty] | None
    by_step: NotRequired[Steps]


class Work(TypedDict):
    """Sums over the samples, as `dyrate.cost.work.Work` explains them."""

    tokens: Annotated[list[Natural], NotEmpty]
    pairs: Annotated[list[Natural], NotEmpty]
    logits: NotRequired[Natural]
    patches: NotRequired[Natural]
    encoder_tokens: NotRequired[Natural]
    encoder_pairs: NotRequired[Natural]
    encoding: NotRequired[Natural]
    encoder_saved: NotRequired[int]
    unprojected: NotRequired[Natural]
    scored: NotRequired[Natural]
    scored_prompt: NotRequired[Natural]
    queries: NotRequired[Natural]
    keys: NotRequired[Natural]
    own_macs: NotRequired[Natural]


class Phases(TypedDict):
    """The work of the phases of generation, as `dyrate.cost.work.Phases` explains them."""

    steps: Natural
    prefill: Work
    decode: Work
    recompute: Work


class BenchmarkResult(TypedDict):
    """One benchmark of a result."""

    task: Text  # lmms-eval task name
    samples: Positive
    units: NotRequired[Positive]  # what the bootstrap resamples: samples, MME pairs, MMB circular groups
    primary: str  # key in `scores` that the tables show
    scores: Annotated[dict[str, Annotated[Score, IN_ORDER]], NotEmpty]
    difference: dict[str, Annotated[Difference, IN_ORDER]] | None  # null when there is no baseline
    visual_tokens: VisualTokens | None  # null where the producer does not know
    prompt: NotRequired[str]  # of the first row, as the model read it
    work: NotRequired[Phases | None]


def _has_primary(benchmark: BenchmarkResult) -> BenchmarkResult:
    if benchmark["primary"] not in benchmark["scores"]:
        raise ValueError(
            f"primary: {benchmark['primary']!r} is not in scores, which has {', '.join(benchmark['scores'])}"
        )
    return benchmark


@with_config(OPEN)
class Hashes(TypedDict, total=False):
    """sha256 of what the result depends on, and of the answers that it scores."""

    weights: str  # weights, configuration and tokenizer of the checkpoint
    data: dict[str, str]  # per benchmark: its parquet file, or the dataset's fingerprint
    template: str  # the chat template that made the prompts
    code: str  # the runtime, the method's own file and the evaluation
    method: str  # of the files that the method's spec names, such as a trained predictor; absent if none
    answers: str  # what the answers file says, `dyrate.evaluation.answers.digest`
    mass: str  # of a trace: its two tables
    heads: str


class Connector(TypedDict):
    """What was trained into the place of a checkpoint's own connector; see `ConnectorRecord`."""

    name: Text
    fields: dict[str, Any]
    base: str
    sha256: str


class Adapter(TypedDict):
    """One of lmms-eval's adapters and what it was given: see `dyrate.evaluation.harness_adapters`."""

    name: Text
    class_path: Text
    arguments: dict[str, Any]
    revision: str | None  # commit on the hub: as pinned, else that of the files in the hub's cache
    trust_remote_code: bool
    cut_prompt: bool


class Revisions(TypedDict, total=False):
    """Commits of what came from the hub."""

    model: str
    data: dict[str, str]  # per benchmark


@with_config(OPEN)
class Meta(TypedDict):
    """How a result came about; nothing here depends on time."""

    command: str  # reproduces the file
    seed: int
    device: str  # "cpu" or the accelerator's name
    dtype: str
    engine: NotRequired[str]  # "transformers", or "graph": this package's own
    # Of a model that no single device has room for: its layers over several, weights of 8 or 4 bits. What it
    # takes is not comparable.
    device_map: NotRequired[str]
    bits: NotRequired[int]
    pixels: NotRequired[list[Positive]]  # least and most of an image, where not the checkpoint's own
    repetition_penalty: NotRequired[float]  # of the checkpoint's generation config, where it has one
    adapter: NotRequired[Adapter]  # where one of lmms-eval's answered in place of an engine
    connector: NotRequired[Connector]
    batch_size: NotRequired[Positive]
    # Asked for per benchmark; null for all.
    samples: NotRequired[Positive | dict[str, Positive | None] | None]
    subsets: NotRequired[dict[str, str]]  # by benchmark, which of its rows; all where none is named
    commit: NotRequired[str | None]  # null outside a git checkout
    versions: NotRequired[dict[str, str]]
    hashes: NotRequired[Hashes]
    revisions: NotRequired[Revisions]
    bootstrap: NotRequired[dict[str, Any]]  # level, resamples, seed
    # Of answers that another harness collected, by benchmark: file, sha256, harness, commit, date and more.
    sources: NotRequired[dict[str, dict[str, str | None]]]


class TextShape(TypedDict):
    """As `dyrate.cost.shapes.TextShape` explains it."""

    layers: Positive
    hidden: Positive
    intermediate: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocabulary: Positive


class VisionShape(TypedDict):
    """As `dyrate.cost.shapes.VisionShape` explains it."""

    layers: Positive
    hidden: Positive
    intermediate: Positive
    patches: Positive
    patch_inputs: Positive


class Shape(TypedDict):
    """The sizes of a model."""

    text: TextShape
    vision: VisionShape


@with_config(OPEN)
class _Named(TypedDict):
    name: Text


Spec = Annotated[dict[str, Any], GetPydanticSchema(lambda _, schema: schema.generate_schema(_Named))]


@with_config(CLOSED)
class Result(TypedDict):
    """One evaluated (study, model, method, decoding)."""

    schema: Literal["dyrate.result"]
    version: Literal[1]
    study: Text
    model: Text
    method: Spec  # {"name": ..., hyperparameters}
    label: Text  # "FastV (K=2, R=0.5)"
    origin: NotRequired[Origin | None]  # of DyRate, its ablations and its extensions
    decoding: Spec  # {"name": ..., generation arguments}
    benchmarks: Annotated[dict[str, Annotated[BenchmarkResult, AfterValidator(_has_primary)]], NotEmpty]
    # Of a partial result alone: why each of the other benchmarks is not there.
    failed: NotRequired[Annotated[dict[str, Text], NotEmpty]]
    shape: NotRequired[Shape]
    meta: Meta


def _past(text: str) -> str:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date such as 2026-01-31T12:00:00+00:00") from None
    if date.replace(tzinfo=date.tzinfo or UTC) > datetime.now(UTC) + timedelta(days=1):
        raise ValueError(f"{text} is in the future")
    return text


@with_config(OPEN)
class RunInformation(TypedDict):
    """Time and place of a run: everything that may differ when the result does not."""

    schema: Literal["dyrate.run"]
    version: Literal[1]
    date: Annotated[str, AfterValidator(_past)]  # ISO 8601, UTC
    result: NotRequired[str]  # sha256 of the result file
    wall_seconds: Amount  # of the whole job, start-up included
    generate_seconds: Amount  # in the model
    samples: Natural
    samples_per_second: Amount  # samples generated in this run / generate_seconds; 0 if all came from the log
    reused_samples: Natural  # answers that came from the response log
    seconds: dict[str, Amount]  # generation per benchmark
    stages: dict[str, Amount]  # wall seconds: load, tasks, generate, score
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

    def log_of(self, benchmark: str, part: str) -> Path:
        """The response log of one that answers a part of the batches of a benchmark."""
        return self._parts / f"{benchmark}.{part.replace('/', '-of-')}.jsonl"

    @property
    def logs_of_parts(self) -> list[Path]:
        """Those that there are, of whatever parts."""
        return sorted(self._parts.glob("*.jsonl"))

    @property
    def _parts(self) -> Path:
        return self.directory / f"{self.decoding}.parts"

    @property
    def partial(self) -> "ResultFiles":
        """Where what there is stands while benchmarks are missing."""
        return ResultFiles(self.directory, f"{self.decoding}.partial")

    def remove(self) -> None:
        """Remove all of them but the log."""
        for path in (self.result, self.run, self.answers):
            path.unlink(missing_ok=True)

    @classmethod
    def beside(cls, result: Path) -> "ResultFiles":
        """The files that lie beside a result JSON."""
        return cls(result.parent, result.name.removesuffix(".json"))


def read(path: str | Path) -> Result:
    """Read and check a result file; raises `ResultError` with one line per problem."""
    return typed.read(Result, Path(path), ResultError)


def write(path: str | Path, result: Result) -> None:
    """Check a result and write it atomically; equal results give equal bytes."""
    typed.write(Result, Path(path), result, ResultError)


def read_run(path: str | Path, result: Path | None = None) -> RunInformation:
    """Read run information; raises `ResultError`, also where `result` is another file than its own."""
    run = typed.read(RunInformation, Path(path), ResultError)
    if lines := [f"{path}: {line}" for line in _contradictions(run, result)]:
        raise ResultError("\n".join(lines))
    return run


def _contradictions(run: RunInformation, result: Path | None) -> Iterator[str]:
    if run["generate_seconds"] > run["wall_seconds"]:
        yield f"generate_seconds: {run['generate_seconds']}, but the whole job took {run['wall_seconds']}"
    if run["reused_samples"] > run["samples"]:
        yield f"reused_samples: {run['reused_samples']} of {run['samples']}"
    if result is not None and run.get("result") not in (None, files.digest(files.read_bytes(result))):
        yield f"result: is of another content of {result}, which was changed or copied; evaluate it again"
