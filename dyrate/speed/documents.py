"""The documents of `dyrate bench` and `dyrate bench-harness`: what is in one, read, checked and written.

Imports neither torch nor the benchmarks themselves: their code may change without a new page.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    SerializeAsAny,
    Strict,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from dyrate.cost.flops import SCOPES
from dyrate.cost.shapes import LLAVA, ModelShape, TextShape, VisionShape
from dyrate.errors import DyrateError
from dyrate.files import read_json
from dyrate.typed import File, Natural, OrAbsent, Positive, Record

FOLDER = Path("results", "h200")
"""Where they lie, from the working folder; their names do not matter."""
METHODS = FOLDER / "methods"
"""Those of all methods side by side."""
VERSION = 1
GIVEN = "as many tokens as "
"""What the name of a contender begins with that drops as many tokens as another one, without choosing."""
READ = ("fastv", "vtw", "replay")
"""Methods whose settings say which printed row, or which budget, a contender stands for."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def _kept(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Check a value and leave it as it is: a 1 is written as 1 again, and not as 1.0."""
    check(value)
    return value


def _sizes_of(kind: type[TextShape | VisionShape]) -> AfterValidator:
    names = [field.name for field in fields(kind)]

    def check(sizes: dict[str, int]) -> dict[str, int]:
        if sorted(sizes) != sorted(names):
            raise ValueError(f"{', '.join(sizes) or 'nothing'}: should be {', '.join(names)}")
        if sizes["layers"] > 1000:
            raise ValueError(f"{sizes['layers']} layers: should be at most 1000")
        return sizes

    return AfterValidator(check)


def _having(*names: str) -> AfterValidator:
    def check(found: dict[str, Any]) -> dict[str, Any]:
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"{', '.join(missing)} is missing")
        return found

    return AfterValidator(check)


AboveZero = Annotated[float, Field(gt=0), WrapValidator(_kept)]
FromZero = Annotated[float, Field(ge=0), WrapValidator(_kept)]
Share = Annotated[float, Field(ge=0, le=1), WrapValidator(_kept)]
Size = Annotated[int, Field(ge=1, le=10_000_000)]
Counted = Annotated[dict[str, Positive], _having(*SCOPES)]


class Shape(Record):
    """The sizes of a model."""

    text: Annotated[dict[str, Size], _sizes_of(TextShape)]
    vision: Annotated[dict[str, Size], _sizes_of(VisionShape)]


class Limits(Record):
    """What the device did at best in the same run."""

    bytes_per_second: AboveZero
    """Of reading one large tensor and writing another: both counted."""
    flops_per_second: AboveZero
    """Of a large square matrix product, two per multiply-accumulate."""


class Method(Record, extra="allow"):
    """A method's settings as in config files."""

    name: str

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, check: ModelWrapValidatorHandler[Self]) -> "Method":
        read = cls is Method and isinstance(value, dict) and value.get("name") in READ
        return ReadMethod.model_validate(value) if read else check(value)

    @property
    def settings(self) -> dict[str, Any]:
        """What is written of it."""
        return self.model_dump(exclude_unset=True)


class ReadMethod(Method, extra="allow"):
    """One of `READ`, whose settings are checked."""

    layer: OrAbsent[Natural] = None
    rate: OrAbsent[Share] = None
    rates: OrAbsent[Annotated[list[Share], Strict(False), Field(min_length=1)]] = None
    """By step."""


class Spread(Record):
    """Milliseconds over a few rounds."""

    median: AboveZero
    low: AboveZero
    high: AboveZero
    rounds: Positive


class KernelTime(Record):
    """All calls of one kernel, or operation, whatever its template arguments."""

    name: str
    calls: Positive
    milliseconds: AboveZero


class Profile(Record):
    """What a pass of a generation consists of."""

    milliseconds: AboveZero
    """From its beginning to its end, with what the profiler itself takes."""
    parts: Annotated[tuple[KernelTime, ...], Strict(False), Field(min_length=1)]
    """The longest first."""


@dataclass(frozen=True)
class Load:
    """What each contender has to do."""

    batch: int
    prompt: int
    """Tokens of a prompt, the visual ones among them."""
    new_tokens: int


class Timing(Record):
    """A contender under a load."""

    contender: str
    label: str
    engine: str
    method: SerializeAsAny[Method] | None
    """None for a peer, which is transformers without this package."""
    batch: Size
    prompt: Size
    new_tokens: Annotated[int, Field(ge=1, le=100_000)]
    first_token_ms: Spread
    per_token_ms: Spread | None
    """None where one token was made."""
    whole_ms: Spread
    tokens_per_second: AboveZero
    speedup: AboveZero
    """The first contender's time end to end over this one's."""
    kv_bytes: Natural
    peak_bytes: Natural | None
    """Weights included; None where the device does not say."""
    bandwidth_share: FromZero | None
    matrix_share: AboveZero
    flops: OrAbsent[Annotated[dict[str, Counted], _having("flops")]] = None
    """Of all rows together, by convention and scope, from the work of the run itself."""
    step_bytes: AboveZero | None = None
    """What a decode step must read: weights once, and every row's keys and values; None without one."""
    prefill_flops: OrAbsent[AboveZero] = None
    """Of documents from before `flops`, the same of prefill, two per multiply-accumulate."""
    prompt_pass: Profile | None = None
    """Up to the first token."""
    decode_step: Profile | None = None
    """The last one."""
    """None where nobody looked."""

    @property
    def load(self) -> Load:
        """What it had to do."""
        return Load(self.batch, self.prompt, self.new_tokens)

    @property
    def name(self) -> str:
        """Its label, without the engine where that is this package's own."""
        return self.label.removesuffix(", graph")

    @property
    def given(self) -> bool:
        """Whether it only shows what as few tokens take that nobody has chosen."""
        return self.contender.startswith(GIVEN)

    @property
    def unpruned(self) -> bool:
        """Whether this package runs the whole model in it."""
        return self.method is not None and self.method.name == "none"

    @property
    def reduces(self) -> bool:
        """Whether a method of this package drops tokens in it."""
        return self.method is not None and not (self.unpruned or self.overhead or self.given)

    @property
    def overhead(self) -> bool:
        """Whether it only shows what a predictor costs that drops nothing."""
        return self.contender.startswith("overhead")


class Document(Record):
    """Where a document comes from."""

    schema_name: ClassVar[str]
    path: Annotated[File, Field(exclude=True)] = Path()
    command: str
    model: str
    weights: Literal["random", "checkpoint"]
    dtype: Literal["float32", "bfloat16", "float16"]
    device: str
    commit: str | None
    date: str | None = None
    versions: dict[str, str]

    def to_json(self, indent: int | None = None) -> str:
        """Return the document as it is written; one that was read, as it was."""
        content = self.model_dump(exclude_unset=True)
        return json.dumps(
            {"schema": self.schema_name, "version": VERSION, **content}, indent=indent, sort_keys=True
        )


class BenchDocument(Document):
    """A document of `dyrate bench`."""

    schema_name = "dyrate.bench"
    benchmark: str | None = None
    replayed: str | None
    """The predictor whose mean rates were replayed."""
    threads: Positive
    seed: int
    shape: Shape
    limits: Limits
    rows: Annotated[tuple[Timing, ...], Strict(False), Field(min_length=1)]

    @model_validator(mode="after")
    def _check_prompts(self) -> "BenchDocument":
        visual = self.sizes.vision.patches
        wrong = [
            f"{self.path}: rows.{i}.prompt: {row.prompt} tokens; the image alone has {visual}: should be more"
            for i, row in enumerate(self.rows)
            if row.prompt <= visual
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    @property
    def sizes(self) -> ModelShape:
        """Its shape, to count with."""
        return ModelShape.read(self.shape.model_dump())

    @property
    def shape_name(self) -> str:
        """The paper's name of the model that has this shape, else the document's."""
        return next((name for name, shape in LLAVA.items() if shape == self.sizes), self.model)

    @property
    def bytes_per_number(self) -> int:
        """Of weights, keys and values."""
        return _BYTES[self.dtype]

    @property
    def loads(self) -> tuple[Load, ...]:
        """Every load, in the document's order."""
        return tuple(dict.fromkeys(row.load for row in self.rows))

    def under(self, load: Load) -> tuple[Timing, ...]:
        """The contenders of a load, in the document's order."""
        return tuple(row for row in self.rows if row.load == load)


class ThroughputRow(Record):
    """One way to answer through the whole harness."""

    name: str
    samples: Size
    seconds: Annotated[tuple[AboveZero, ...], Strict(False), Field(min_length=1)]
    """By round."""
    tokens: Natural
    """Of the last round's answers, as the tokenizer reads them back."""
    captions_per_second: AboveZero
    speedup: AboveZero
    """Over the first entry, which is lmms-eval's own adapter."""
    engine_seconds: Annotated[tuple[AboveZero, ...], Strict(False)] = ()
    """By round, what generation alone takes for the same batches, which lie on the device already."""
    engine_share: AboveZero | None = None
    """Share of the harness's time that generation alone takes; None for lmms-eval's own adapter."""


class HarnessDocument(Document):
    """A document of `dyrate bench-harness`."""

    schema_name = "dyrate.bench_harness"
    batch_size: Size
    new_tokens: Size
    task: str = "nocaps"
    rows: Annotated[tuple[ThroughputRow, ...], Strict(False), Field(min_length=1)]


@dataclass(frozen=True)
class Documents:
    """All that were found."""

    benches: tuple[BenchDocument, ...] = ()
    harnesses: tuple[HarnessDocument, ...] = ()


def paths(folder: Path = FOLDER) -> tuple[str, ...]:
    """The documents' paths, sorted; none where there is no such folder."""
    return tuple(sorted(path.as_posix() for path in folder.glob("*.json")))


def read(chosen: Sequence[str] | None = None) -> Documents:
    """Read the documents; by default all in `FOLDER`.

    They are ordered by model, device and load, so that names do not matter. Raises `DyrateError` with a line
    per problem, each naming file and key.
    """
    documents = [_read(Path(path)) for path in (paths() if chosen is None else chosen)]
    documents.sort(key=lambda document: (document.command, document.path.as_posix()))
    benches = (document for document in documents if isinstance(document, BenchDocument))
    harnesses = (document for document in documents if isinstance(document, HarnessDocument))
    return Documents(tuple(sorted(benches, key=_order)), tuple(harnesses))


def _order(bench: BenchDocument) -> tuple[object, ...]:
    loads = min((row.prompt, row.new_tokens, row.batch) for row in bench.rows)
    return bench.sizes.text.parameters, bench.device, bench.dtype, loads


def _read(path: Path) -> BenchDocument | HarnessDocument:
    document = read_json(path)
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise DyrateError(f"{path}: is a {kind}, should be an object as `dyrate bench` writes it")
    name, version = document.pop("schema", None), document.pop("version", None)
    if name not in (BenchDocument.schema_name, HarnessDocument.schema_name):
        known = f"{BenchDocument.schema_name!r} or {HarnessDocument.schema_name!r}"
        raise DyrateError(f"{path}: schema: is {name!r}, should be {known}")
    if version != VERSION:
        raise DyrateError(f"{path}: version: is {version!r}; this dyrate reads version {VERSION}")
    found = BenchDocument if name == BenchDocument.schema_name else HarnessDocument
    return found.of({**document, "path": path}, lambda key: f"{path}: {key}")
