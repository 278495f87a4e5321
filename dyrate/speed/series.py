"""Measured times as a picture takes them: by batch, and against the device's limits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from dyrate.speed import costs
from dyrate.speed.documents import BenchDocument, Timing

Value = Callable[[Timing], float | None]


@dataclass(frozen=True)
class TimingSetting:
    """What must be equal for times to stand in one picture."""

    model: str
    device: str
    dtype: str
    prompt: int
    new_tokens: int

    def __str__(self) -> str:
        return f"{self.model}, {self.device}, {self.dtype}, prompt {self.prompt}, N = {self.new_tokens}"


@dataclass(frozen=True)
class Series:
    """A contender's timings by batch."""

    label: str
    engine: str
    timings: dict[int, tuple[Timing, ...]]

    @property
    def timing(self) -> Timing:
        """One of them, for what it says of the contender."""
        return next(iter(self.timings.values()))[0]

    def points(self, value: Value) -> list[tuple[int, float]]:
        """(batch, value), the median where several documents have the batch; none where nobody measured."""
        measured = {
            batch: [known for timing in timings if (known := value(timing)) is not None]
            for batch, timings in sorted(self.timings.items())
        }
        return [(batch, median(values)) for batch, values in measured.items() if values]


def by_batch(benches: Sequence[BenchDocument]) -> dict[TimingSetting, tuple[Series, ...]]:
    """Return the contenders of each setting that was measured at two batches or more.

    Predictors that drop nothing are left out: they lie on the unpruned model's curve.
    """
    settings: dict[TimingSetting, dict[tuple[str, str], dict[int, list[Timing]]]] = {}
    for bench in benches:
        for timing in bench.rows:
            if not timing.overhead:
                machine = bench.shape_name, bench.device, bench.dtype
                setting = TimingSetting(*machine, timing.prompt, timing.new_tokens)
                batches = settings.setdefault(setting, {}).setdefault((timing.label, timing.engine), {})
                batches.setdefault(timing.batch, []).append(timing)
    drawn = {
        setting: contenders
        for setting, contenders in settings.items()
        if len({batch for batches in contenders.values() for batch in batches}) > 1
    }
    return {
        setting: tuple(
            Series(*name, {batch: tuple(timings) for batch, timings in batches.items()})
            for name, batches in contenders.items()
        )
        for setting, contenders in drawn.items()
    }


@dataclass(frozen=True)
class RooflinePoint:
    """A contender's prefill or decode step: FLOPs per byte, FLOPs per second."""

    timing: Timing
    phase: str
    per_byte: float
    per_second: float


def roofline_points(bench: BenchDocument) -> Iterator[RooflinePoint]:
    """Yield what a document's timings are in both phases, but for predictors that drop nothing."""
    for timing in (timing for timing in bench.rows if not timing.overhead):
        flops = costs.flops(bench, timing, "prefill")
        weights = costs.weight_bytes(bench.sizes, bench.bytes_per_number, prefill=True)
        yield RooflinePoint(timing, "prefill", flops / weights, 1000 * flops / timing.first_token_ms.median)
        read, flops_of_step = costs.step_bytes(bench, timing), costs.step_flops(bench, timing)
        if read and flops_of_step and timing.per_token_ms:
            per_second = 1000 * flops_of_step / timing.per_token_ms.median
            yield RooflinePoint(timing, "decode", flops_of_step / read, per_second)
