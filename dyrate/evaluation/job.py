"""What `dyrate evaluate` is asked, and the options that it shares with other jobs and with studies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import ALL, BENCHMARKS, Cut, select
from dyrate.evaluation.decoding import decoding_slug
from dyrate.evaluation.harness_adapters import AdapterOptions, AdapterSpec, Commit
from dyrate.evaluation.placement import Fit
from dyrate.evaluation.results import ResultFiles
from dyrate.files import parse_json
from dyrate.jobs import Job, flag, option
from dyrate.registry import as_spec
from dyrate.typed import File, Names, Natural, Positive, meant


def _spec(value: Any) -> dict[str, Any]:
    """The mapping that a name, JSON text or a mapping stands for."""
    try:
        return as_spec(value, "")
    except DyrateError as error:  # whose place is not known here
        raise ValueError(str(error).removeprefix(": ")) from None


def _adapter_options(value: Any) -> dict[str, Any]:
    """What one of lmms-eval's adapters is given, of JSON text or a mapping; defaults are left out."""
    given = parse_json(value, f"{value!r:.80}") if isinstance(value, str) else value
    if not isinstance(given, dict):
        example = "{'arguments': {'pretrained': 'owner/name'}}"
        raise ValueError(f"expected a mapping, such as {example}, not {given!r:.80}")  # noqa: TRY004 - pydantic's
    return AdapterOptions.of(given).model_dump(exclude_defaults=True)


def _mapping(value: Any) -> Any:
    """What JSON text says; any other value as it is."""
    return parse_json(value, f"{value!r:.80}") if isinstance(value, str) and value.startswith("{") else value


def _samples(value: Any) -> Any:
    """Refuse what is neither a number of rows, nor null, nor a mapping to such."""
    value = _mapping(value)
    numbers = value if isinstance(value, dict) else {"": value}
    for name, number in numbers.items():
        where = f"{name}: " if name else ""
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise ValueError(f"{where}{number!r:.200} is not a whole number")
        if number is not None and number < 1:
            raise ValueError(f"{where}{number} is not a whole number from 1 on")
    return value


def cut_of(benchmark: str, samples: Any, subsets: Mapping[str, str]) -> Cut:
    """What `samples` and `subsets` ask of a benchmark's rows."""
    number = samples.get(benchmark, samples.get(DEFAULT)) if isinstance(samples, Mapping) else samples
    return Cut(number, subsets.get(benchmark, ALL))


def known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return benchmarks' names; a `DyrateError` for one that is unknown or given twice."""
    select(names)
    return names


SOURCES = ("testbed", "hub")
"""Where tasks come from, but for a folder of them."""
UNPRUNED: dict[str, Any] = {"name": "none"}
_GREEDY: dict[str, Any] = {"name": "greedy"}
_ALL_ROWS: dict[str, str] = {}
Spec = Annotated[dict[str, Any], BeforeValidator(_spec)]
DEFAULT = "default"
"""In a mapping of samples, what holds for the other benchmarks."""
Samples = Annotated[
    Positive | dict[str, Positive | None] | None,
    BeforeValidator(_samples),
    option(
        "what",
        "N",
        "per benchmark, drawn from all rows; pairs and rotations stay whole. Or JSON: a number for some, "
        f"and a {DEFAULT} for the others; null for all rows",
    ),
]
Subsets = Annotated[
    dict[str, str],
    BeforeValidator(_mapping),
    option(
        "what",
        "JSON",
        "rows that others call the benchmark: flickr30k has karpathy-test, 1,000 of 31,783 (default: all)",
        printed="changed",
    ),
]
Tasks = Annotated[
    str,
    option(
        "data", "WHERE", "testbed (local parquet), hub (lmms-eval's own data sets), or a folder of task files"
    ),
]
Data = Annotated[File | None, option("data", "DIR", "folder of the parquet files (default: data/testbed)")]
BatchSize = Annotated[Positive, option("how", "N", "halved when memory is short")]
Revision = Annotated[Commit | None, option("what", "COMMIT", "of a model on the hub (default: today's main)")]
ChatTemplate = Annotated[
    str | None,
    option(
        "how",
        "WHICH",
        "a .jinja file, or vicuna, for a checkpoint that has none of its own (default: the checkpoint's)",
    ),
]


def _two(pixels: Any) -> Any:
    if isinstance(pixels, list | tuple) and len(pixels) != 2:
        given = " ".join(map(str, pixels)) or "nothing"
        raise ValueError(f"{given}: two numbers are expected, the least and the most pixels of an image")
    return pixels


def _bounds(pixels: tuple[int, int]) -> tuple[int, int]:
    if pixels[0] > pixels[1]:
        raise ValueError(f"{pixels[0]} and {pixels[1]}: the first is the least, the second the most")
    return pixels


PixelBounds = Annotated[
    tuple[Positive, Positive], Strict(False), BeforeValidator(_two), AfterValidator(_bounds)
]
Pixels = Annotated[
    PixelBounds | None,
    option(
        "how",
        "N",
        "the least and the most pixels of an image, where a checkpoint's images keep their size within "
        "bounds, as Qwen's do (default: its own; lmms-eval's adapters have 200704 1605632)",
    ),
]
Device = Annotated[str, option("how", "DEVICE", "auto, cpu, cuda, cuda:N")]
Dtype = Annotated[
    Literal["auto", "float32", "float16", "bfloat16"],
    option(
        "how",
        text="of the model; auto: bfloat16 on a GPU that has it, float16 on another one, float32 on a CPU",
    ),
]
Engine = Annotated[
    Literal["auto", "transformers", "graph"],
    option(
        "how",
        text="what generates: transformers, or graph, this package's own engine of fused kernels and CUDA "
        "graphs, which has no beams; auto takes the latter on a GPU where it can",
    ),
]
DeviceMap = Annotated[
    Literal["auto"] | None,
    option(
        "how",
        text="auto: a model that no single GPU has room for, its layers over all that are visible. "
        "transformers generates, and times are not comparable",
    ),
]
Bits = Annotated[
    Literal[8, 4] | None,
    option(
        "how",
        text="of each weight of the language model's layers, on a GPU, where there is no room for 16: by "
        "bitsandbytes, to be installed. Another model than with all bits, and times are not comparable",
    ),
]
# A pipeline gives as many as there are, and the run information says how many.
Threads = Annotated[
    Positive | None, option("how", "N", "CPU threads (default: as many as torch takes)", printed="never")
]
Seed = Annotated[Natural, Field(le=2**63 - 1), option("how", "S", "of the bootstrap and of sampling")]
Metrics = Annotated[
    Literal["all", "primary"],
    option(
        "result",
        text="primary leaves out what the tables do not show: METEOR takes longer than a small model",
        printed="changed",
    ),
]


def told_bounds(pixels: Sequence[int] | None) -> str:
    """How images are bounded, as the option that asks for it."""
    return f"--pixels {' '.join(map(str, pixels))}" if pixels else "the checkpoint's own bounds"


class _Named(Job):
    """Which benchmarks, of which model: what every printed command begins with."""

    benchmarks: Annotated[Names, AfterValidator(known), option("what", "NAME", ", ".join(BENCHMARKS))]
    study: Annotated[str, option("result", "NAME")] = "adhoc"
    """written into the result"""
    model: Annotated[str, option("what", "M")]
    """a checkpoint's folder or hub id"""
    model_name: Annotated[str | None, option("result", "NAME")] = None
    """written into the result (default: the folder's name)"""

    @property
    def name(self) -> str:
        """The model's name in the result."""
        return self.model_name or Path(self.model).name

    def arguments(self) -> list[str]:
        """The options that ask for this job, the model's name among them."""
        named = self if self.model_name else self.model_copy(update={"model_name": self.name})
        return super(_Named, named).arguments()


class Asked(_Named):
    """A job that asks a model the questions of benchmarks."""

    tasks: Tasks = "testbed"
    data: Data = None
    samples: Samples = None
    subsets: Subsets = _ALL_ROWS
    batch_size: BatchSize = 16
    device: Device = "auto"
    dtype: Dtype = "auto"
    engine: Engine = "auto"
    threads: Threads = None
    seed: Seed = 0
    revision: Revision = None
    chat_template: ChatTemplate = None
    pixels: Pixels = None
    device_map: DeviceMap = None
    bits: Bits = None

    @model_validator(mode="after")
    def _check_fit(self) -> "Asked":
        for key, value in self.fit.told.items():
            if self.engine == "graph":
                raise ValueError(
                    f"{flag(key)}: {value}: the engine graph runs models that are whole on one device, with "
                    "the weights as they are stored: leave --engine out, or give transformers"
                )
        return self

    @property
    def fit(self) -> Fit:
        """How a model that no single device has room for is loaded."""
        return Fit(self.device_map, self.bits)

    @model_validator(mode="after")
    def _check_cuts(self) -> "Asked":
        for key, names in (("samples", self.samples), ("subsets", self.subsets)):
            for name in names if isinstance(names, dict) else ():
                if name not in BENCHMARKS and (key, name) != ("samples", DEFAULT):
                    raise ValueError(f"{flag(key)}: unknown benchmark {name!r}{meant(name, BENCHMARKS)}")
        for name, subset in self.subsets.items():
            try:
                BENCHMARKS[name].subset(subset)
            except DyrateError as error:
                raise ValueError(f"{flag('subsets')}: {error}") from None
        return self

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What is asked of the rows of each of its benchmarks."""
        return tuple(cut_of(name, self.samples, self.subsets) for name in self.benchmarks)


class _Treated(_Named):
    """How the model is made to answer."""

    method: Annotated[Spec, option("what", "SPEC")] = UNPRUNED
    """a name, or JSON with its hyperparameters"""
    decoding: Annotated[Spec, option("what", "SPEC")] = _GREEDY
    """greedy, beam-2, beam-5, top_p, or JSON"""


class Evaluation(Asked, _Treated):
    """What to evaluate, and into which folder.

    Results hold the command that asks for them: the order of the classes above is that of its options.
    """

    command_name = "evaluate"

    baseline: Annotated[File | None, option("result", "JSON")] = None
    """result to take paired differences from"""
    metrics: Metrics = "all"
    adapter: Annotated[dict[str, Any] | None, BeforeValidator(_adapter_options), option("what", "JSON")] = (
        None
    )
    """--model is the name of one of lmms-eval's adapters, and this what it is given: see above"""
    output: Annotated[File, option("result", "DIR")]
    """folder of the files"""

    @model_validator(mode="after")
    def _seed_sampling(self) -> "Evaluation":
        if self.decoding["name"] == "top_p":
            self.decoding.setdefault("seed", self.seed)
        return self

    @model_validator(mode="after")
    def _check_as_it_is(self) -> "Evaluation":
        if self.adapter is None:
            return self
        checkpoints = ("revision", "chat_template", "pixels", "device_map", "bits")
        if key := next((key for key in checkpoints if getattr(self, key) is not None), None):
            raise ValueError(f"{flag(key)}: is for checkpoints; what an adapter is given stands in --adapter")
        given = {"method": (self.method["name"], "none"), "decoding": (self.decoding["name"], "greedy")}
        for key, (name, only) in given.items():
            if name != only:
                raise ValueError(
                    f"{flag(key)}: {name!r}: what an lmms-eval adapter answers for is asked as it is, "
                    f"greedily and with no reduction method: leave {flag(key)} out"
                )
        return self

    @property
    def system(self) -> AdapterSpec | None:
        """The lmms-eval adapter that answers, if one does."""
        return None if self.adapter is None else AdapterSpec.of({"name": self.model, **self.adapter})

    @property
    def files(self) -> ResultFiles:
        """Where the result goes."""
        return ResultFiles(self.output, decoding_slug(self.decoding))
