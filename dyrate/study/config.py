"""A study's config: its keys, their types and defaults, and the file that it is read from."""

from collections.abc import Iterable, Mapping
from itertools import compress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict

from dyrate.errors import DyrateError
from dyrate.evaluation.harness_adapters import Commit
from dyrate.evaluation.job import BatchSize, Dtype, Engine, Metrics, Samples, Seed, Subsets
from dyrate.plain import plain_problems, read_plain
from dyrate.study.model import Model, Name
from dyrate.typed import (
    NOT_NULL,
    DistinctNames,
    Names,
    Natural,
    OrAbsent,
    Origin,
    Positive,
    Record,
    Text,
    Value,
    once,
)

Listed = Annotated[tuple[Value, ...], Strict(False), Field(min_length=1)]
Group = Literal["main", "budget", "methods", "strategy", "decoding", "predictor"]


_NOTHING: dict[str, str] = {}
_NO_PARTS: dict[str, int] = {}


class StudyError(DyrateError):
    """A study's config names something that does not exist, or twice, or in the wrong type."""


class Resources(Record):
    """What Snakemake is told that a process takes."""

    gpu: OrAbsent[Natural] = None
    """default: 1 where `device` is a GPU (auto: where torch sees one), else 0"""
    mem_mb: OrAbsent[Positive] = None
    runtime: OrAbsent[Positive] = None
    """minutes"""


class Published(Record):
    """The rows of the paper's tables that a method is set beside."""

    table1: OrAbsent[str] = None
    table2: OrAbsent[str] = None
    """also of Table III"""
    strategy: OrAbsent[str] = None


class MethodEntry(Record):
    """A method's name and hyperparameters, and the study's own keys: all the others here but `predictor`."""

    model_config = ConfigDict(extra="allow")

    name: Text
    """a name (`dyrate methods`) or path/to/file.py:Class"""
    predictor: OrAbsent[str] = None
    """name of the `predictors` entry that the method runs with"""
    models: OrAbsent[Names] = None
    """only on these models (default all)"""
    benchmarks: OrAbsent[DistinctNames] = None
    """only on these benchmarks (default all of the study)"""
    decodings: OrAbsent[DistinctNames] = None
    """names of its decoding strategies (default the study's `decodings`)"""
    published: Published = Published()
    group: Group = "main"
    """the tables that its rows land in: Tables I to III (main), DyRate's comparison at equal budget alone
    (budget), the ranking of all methods alone (methods), or an ablation"""


# What a `methods:` entry says of its place in the study; everything else is the method's own.
METHOD_KEYS = frozenset(MethodEntry.model_fields) - {"name", "predictor"}


class PredictorEntry(Record):
    """A name and a recipe (`dyrate train-predictor --help`); `models` and `data` are the study's own keys."""

    model_config = ConfigDict(extra="allow")

    name: Name
    origin: OrAbsent[Origin] = None
    """whether the recipe is one that the paper describes; checked against it"""
    models: OrAbsent[Names] = None
    """only for these models (default all)"""
    data: OrAbsent[Text] = None
    """file of training questions, .jsonl or .parquet (default scenes of the testbed's training split)"""


class Decoding(Record):
    """A decoding strategy's name and its settings."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$")]


class TraceSettings(Record):
    """What `dyrate trace` records class mass on."""

    benchmarks: OrAbsent[DistinctNames] = None
    samples: OrAbsent[Positive] = None


class SurvivalSettings(Record):
    """What `dyrate survival` looks at again, token by token, for the page reports/<study>/survival.html."""

    samples: Positive = 6
    """of each model: a third where the first method wins most, a third where it loses most, a third drawn"""
    methods: DistinctNames = ("dyrate", "fastv")
    """names of methods; of each, the study's first on the model stands beside the unpruned model"""
    benchmarks: OrAbsent[DistinctNames] = None
    """default: all captioning and VQA ones of the study"""


class Latency(Record):
    """What `dyrate bench` times for Table III, one prompt at a time and nothing else running."""

    benchmark: str
    """whose prompts it takes"""
    new_tokens: OrAbsent[Annotated[int, Field(ge=2)]] = None
    """that it makes of each prompt"""
    rounds: OrAbsent[Positive] = None
    """how many prompts"""


def _names(value: Any) -> Any:
    """The names in text, such as a command line's, that are parted by commas."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class StudyConfig(Record):
    """Models x methods x decodings, each evaluated on the same benchmarks."""

    study: Name
    """name of the study; also its folder under results/ and reports/"""
    tasks: Text = "testbed"
    """where the benchmarks come from: testbed (built by a rule), hub (lmms-eval's own), or a folder of task
    files"""
    data: Text = "data/testbed"
    """folder of the testbed's parquet files"""
    sides: Annotated[tuple[Positive, ...], Strict(False), AfterValidator(once)] = ()
    """sides, in pixels, to one of which each of the testbed's images is resized (default: 168, as drawn)"""
    samples: Samples = 100  # null takes all, but not of the testbed
    subsets: Subsets = _NOTHING
    revisions: dict[str, Commit] = _NOTHING
    """by benchmark, a commit of its data set on the hub (default today's main, when it is fetched)"""
    seed: Seed = 0  # of the data, too
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda|cuda:[0-9]+)$")] = "auto"
    """auto, cpu, cuda or cuda:N"""
    dtype: Dtype = "auto"
    engine: Engine = "auto"
    batch_size: BatchSize = 16
    metrics: Metrics = "all"
    sweep: Positive = 1
    """at most how many evaluations share a process, which loads the model once and, on a CPU, does once what
    they have in common; of one model and one group, the unpruned apart from the others"""
    parts: dict[str, Positive] = _NO_PARTS
    """by benchmark, how many jobs share its questions in each evaluation, on as many GPUs or nodes; 1 is a
    job of its own, and `default` is for the others, which are otherwise asked by the evaluation itself. The
    results are the same"""
    threads: Positive = 1
    """CPU threads of one process"""
    resources: Resources = Resources()
    models: Listed[Model]
    """a list (not a mapping), so that a later --configfile replaces it as a whole"""
    methods: Listed[MethodEntry]
    predictors: Annotated[tuple[PredictorEntry, ...], Strict(False)] = ()
    """DyRate's; a shipped one (predictors/<study>/<model>/<name>) is used, others are trained"""
    training: OrAbsent[Text] = None
    """questions for predictors without `data`; a rule makes data/<study>/train.jsonl if no file is there"""
    trained: Text | None = None
    """folder of predictors that are used as they are, by model and name; null is predictors/ and the study's
    name. What it lacks a rule trains"""
    retrain: Literal[False, True, 0, 1] = False
    """train those again"""
    rank_at: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], Strict(False), AfterValidator(once)
    ] = ()
    """budgets at which all methods are ranked: mean shares of the visual tokens per layer at prefill"""
    preflight: Literal["stop", "warn", "skip"] = "stop"
    """what a study on the hub's data does first: look at what it needs (`dyrate preflight`), and stop where
    something would fail, warn of it, or nothing"""
    without: Annotated[
        tuple[Literal[Group, "systems"], ...], Strict(False), AfterValidator(once), BeforeValidator(_names)
    ] = ()
    """groups that are left out: of methods, and `systems`, all models behind lmms-eval's adapters"""
    trace: OrAbsent[TraceSettings] = None
    survival: OrAbsent[SurvivalSettings] = None
    latency: OrAbsent[Latency] = None
    decodings: Listed[Decoding] = (Decoding(name="greedy"),)
    benchmarks: DistinctNames
    external: Annotated[
        tuple[Annotated[str, Field(pattern=r"\.json$")], ...], Strict(False), AfterValidator(once)
    ] = ()
    """result files of other producers; their rows join the tables"""


_DEFAULTS = StudyConfig.model_construct().model_dump(mode="json", exclude_none=True)
DEFAULTS: dict[str, Any] = {
    name: _DEFAULTS.get(name)
    for name, field in StudyConfig.model_fields.items()
    if not field.is_required() and NOT_NULL not in field.metadata
}
"""The values of the keys that a config may leave out."""


def check(config: Mapping[str, Any], source: str) -> StudyConfig:
    """Return a config with its defaults typed; a `StudyError` has a line per mistake, with its key."""
    refuse(source, plain_problems(config))
    try:
        return StudyConfig.of({**DEFAULTS, **config})
    except DyrateError as error:
        refuse(source, str(error).splitlines())
        raise


def left_out(typed: StudyConfig, config: Mapping[str, Any]) -> tuple[StudyConfig, dict[str, Any]]:
    """A config, typed and plain, without the groups of methods and models that its `without` names."""
    groups: dict[str, list[str | None]] = {
        "models": [None if model.adapter is None else "systems" for model in typed.models],
        "methods": [method.group for method in typed.methods],
    }
    stay = {key: [group not in typed.without for group in found] for key, found in groups.items()}
    kept = {key: tuple(compress(getattr(typed, key), chosen)) for key, chosen in stay.items()}
    plain = {key: list(compress(config[key], chosen)) for key, chosen in stay.items()}
    return typed.model_copy(update=kept), {**config, **plain}


def refuse(source: str, problems: Iterable[str]) -> None:
    """Raise a `StudyError` with a line per problem, each naming `source`; nothing where there is none."""
    lines = list(problems)
    if lines:
        raise StudyError(f"{source}: " + f"\n{source}: ".join(lines))


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file; a `StudyError` for one that is no mapping, or gives a key twice."""
    path = Path(path)
    if not path.exists():
        raise StudyError(f"no study config at {path}; try config/testbed.yaml")
    config = read_plain(path, StudyError)
    if not isinstance(config, dict):
        raise StudyError(f"{path} holds a {type(config).__name__}, not a mapping of keys such as 'study'")
    if "__use_yte__" in config:
        raise StudyError(f"{path}: __use_yte__: a study's config is no template; write its values out")
    return config
