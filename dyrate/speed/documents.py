"""The documents of `dyrate bench` and `dyrate bench-harness` that come with the checkout: read and checked.

Imports neither torch nor the benchmarks themselves: their code may change without a new page.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.errors import DyrateError
from dyrate.files import read_json

FOLDER = Path("results", "h200")
"""Where they lie, from the working folder; their names do not matter."""
BENCH, HARNESS, VERSION = "dyrate.bench", "dyrate.bench_harness", 1
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class SpeedError(DyrateError):
    """A document of measured times that is not one: a line per problem, each naming file and key."""


@dataclass(frozen=True)
class Spread:
    """Milliseconds over a few rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class TimedLoad:
    """What each contender had to do."""

    batch: int
    prompt: int
    """Tokens of a prompt, the visual ones among them."""
    new_tokens: int


@dataclass(frozen=True)
class KernelTime:
    """All calls of one kernel in a decode step."""

    name: str
    calls: int
    milliseconds: float


@dataclass(frozen=True)
class Timing:
    """A contender under a load."""

    contender: str
    label: str
    engine: str
    method: dict[str, Any] | None
    """As in config files; None for a peer, which is transformers without this package."""
    load: TimedLoad
    first_token: Spread
    per_token: Spread | None
    """None where one token was made."""
    whole: Spread
    tokens_per_second: float
    speedup: float
    """The first contender's time end to end over this one's."""
    kv_bytes: int
    peak_bytes: int | None
    """Weights included; None where the device does not say."""
    bandwidth_share: float | None
    matrix_share: float
    step: tuple[KernelTime, ...]
    """What a decode step consists of; empty where nobody looked."""

    @property
    def name(self) -> str:
        """Its label, without the engine where that is this package's own."""
        return self.label.removesuffix(", graph")

    @property
    def reduces(self) -> bool:
        """Whether a method of this package drops tokens in it."""
        return self.method is not None and self.method["name"] != "none" and not self.overhead

    @property
    def overhead(self) -> bool:
        """Whether it only shows what a predictor costs that drops nothing."""
        return self.contender.startswith("overhead")


@dataclass(frozen=True)
class Provenance:
    """Where a document comes from."""

    path: Path
    command: str
    model: str
    weights: Literal["random", "checkpoint"]
    dtype: str
    device: str
    commit: str | None
    date: str | None


@dataclass(frozen=True)
class BenchDocument:
    """A document of `dyrate bench`."""

    made: Provenance
    replayed: str | None
    """The predictor whose mean rates were replayed."""
    shape: ModelShape
    bytes_per_second: float
    """What the device's memory did at best in the same run."""
    flops_per_second: float
    """The same of its matrix products."""
    timings: tuple[Timing, ...]

    @property
    def model(self) -> str:
        """The paper's name of the model that has this shape, else the document's."""
        return next((name for name, shape in LLAVA.items() if shape == self.shape), self.made.model)

    @property
    def bytes_per_number(self) -> int:
        """Of weights, keys and values."""
        return _BYTES[self.made.dtype]

    @property
    def loads(self) -> tuple[TimedLoad, ...]:
        """Every load, in the document's order."""
        return tuple(dict.fromkeys(timing.load for timing in self.timings))

    def under(self, load: TimedLoad) -> tuple[Timing, ...]:
        """The contenders of a load, in the document's order."""
        return tuple(timing for timing in self.timings if timing.load == load)


@dataclass(frozen=True)
class ThroughputRow:
    """One way to answer through the whole harness."""

    name: str
    samples: int
    seconds: tuple[float, ...]
    tokens: int
    captions_per_second: float
    speedup: float
    """Over the first entry, which is lmms-eval's own adapter."""


@dataclass(frozen=True)
class Harness:
    """A document of `dyrate bench-harness`."""

    made: Provenance
    batch_size: int
    new_tokens: int
    rows: tuple[ThroughputRow, ...]


@dataclass(frozen=True)
class Documents:
    """All that were found."""

    benches: tuple[BenchDocument, ...] = ()
    harnesses: tuple[Harness, ...] = ()


def paths(folder: Path = FOLDER) -> tuple[str, ...]:
    """The documents' paths, sorted; none where there is no such folder."""
    return tuple(sorted(path.as_posix() for path in folder.glob("*.json")))


def read(chosen: Sequence[str] | None = None) -> Documents:
    """Read the documents; by default all in `FOLDER`.

    They are ordered by model, device and load, so that names do not matter. Raises `SpeedError` with a line
    per problem.
    """
    documents = [_read(Path(path)) for path in (paths() if chosen is None else chosen)]
    benches = [document for document in documents if isinstance(document, BenchDocument)]
    harnesses = [document for document in documents if isinstance(document, Harness)]
    return Documents(
        tuple(sorted(benches, key=_order)), tuple(sorted(harnesses, key=lambda h: _named(h.made)))
    )


def _order(bench: BenchDocument) -> tuple[Any, ...]:
    loads = [(load.prompt, load.new_tokens, load.batch) for load in bench.loads]
    return bench.shape.text.parameters, bench.made.device, bench.made.dtype, min(loads), _named(bench.made)


def _named(made: Provenance) -> tuple[str, str]:
    return made.command, made.path.as_posix()


def _read(path: Path) -> BenchDocument | Harness:
    document = read_json(path, SpeedError)
    if lines := [f"{path}: {line}" for line in _problems(document)]:
        raise SpeedError("\n".join(lines))
    made = Provenance(
        path, **{key: document.get(key) for key in Provenance.__dataclass_fields__ if key != "path"}
    )
    if document["schema"] == HARNESS:
        rows = (
            ThroughputRow(**{**_fields(row, ThroughputRow), "seconds": tuple(row["seconds"])})
            for row in document["rows"]
        )
        return Harness(made, document["batch_size"], document["new_tokens"], tuple(rows))
    limits = document["limits"]
    return BenchDocument(
        made,
        document["replayed"],
        ModelShape.read(document["shape"]),
        limits["bytes_per_second"],
        limits["flops_per_second"],
        tuple(_timing(row) for row in document["rows"]),
    )


def _timing(row: dict[str, Any]) -> Timing:
    times: dict[str, Any] = {key: row[f"{key}_ms"] for key in ("first_token", "per_token", "whole")}
    spreads: dict[str, Any] = {
        key: Spread(**_fields(spread, Spread)) if spread else None for key, spread in times.items()
    }
    profiled = row.get("decode_step") or {"parts": []}
    return Timing(
        load=TimedLoad(**_fields(row, TimedLoad)),
        step=tuple(KernelTime(**_fields(part, KernelTime)) for part in profiled["parts"]),
        **spreads,
        **{key: row[key] for key in Timing.__dataclass_fields__ if key in row},
    )


def _fields(values: dict[str, Any], of: Any) -> dict[str, Any]:
    return {key: values[key] for key in of.__dataclass_fields__}


def _problems(document: object) -> Iterator[str]:
    """Yield `key: what is wrong`, one per problem."""
    import jsonschema

    if not isinstance(document, dict):
        yield f"is a {type(document).__name__}, should be an object as `dyrate bench` writes it"
        return
    name = document.get("schema")
    if name not in (BENCH, HARNESS):
        yield f"schema: is {name!r}, should be {BENCH!r} or {HARNESS!r}"
        return
    if document.get("version") != VERSION:
        yield f"version: is {document.get('version')!r}; this dyrate reads version {VERSION}"
        return
    validator = jsonschema.Draft202012Validator({**_schema(), "$ref": f"#/$defs/{name}"})
    errors = sorted(validator.iter_errors(document), key=lambda error: [str(key) for key in error.path])
    for error in errors:
        yield f"{'.'.join(map(str, error.path)) or '(top level)'}: {error.message:.300}"
    if errors or name == HARNESS:
        return
    visual = document["shape"]["vision"]["patches"]
    for i, row in enumerate(document["rows"]):
        if row["prompt"] <= visual:
            yield f"rows.{i}.prompt: {row['prompt']} tokens; the image alone has {visual}: should be more"


@cache
def _schema() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("speed.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
