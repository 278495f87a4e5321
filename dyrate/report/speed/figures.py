"""Pictures of measured time and memory: against the device's limits, and against the batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from dyrate.report.drawing import CURVES, LINE, MUTED, PAPER, as_svg, canvas
from dyrate.report.speed import spending
from dyrate.report.speed.files import Bench, Timing

KINDS = (
    "transformers’ own generate()",
    "transformers, unpruned or static cache",
    "transformers, with a method",
    "this package’s engine, unpruned",
    "this package’s engine, with a method",
)
"""What the roofline tells apart, in the order of the curves' colours."""
MARKERS = "oDs^vPX*"
Value = Callable[[Timing], float | None]
MEASURES: tuple[tuple[str, Value], ...] = (
    ("milliseconds per token", lambda timing: timing.per_token.median if timing.per_token else None),
    ("tokens per second, all rows, prefill included", lambda timing: timing.tokens_per_second),
    ("KV cache, GiB", lambda timing: timing.kv_bytes / 2**30),
    ("most memory at once, GiB", lambda timing: timing.peak_bytes / 2**30 if timing.peak_bytes else None),
)


@dataclass(frozen=True)
class Setting:
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
    number: int
    """Of its colour and marker: the same in every setting."""
    timings: dict[int, tuple[Timing, ...]]

    @property
    def colour(self) -> int:
        """Which of the eight."""
        return self.number % len(CURVES)

    @property
    def marker(self) -> int:
        """Which of `MARKERS`: when colours come again, each comes with another one."""
        return (self.number + self.number // len(CURVES)) % len(MARKERS)

    def points(self, value: Value) -> list[tuple[int, float]]:
        """(batch, value), the median where several documents have the batch; none where nobody measured."""
        found = {
            batch: [known for timing in timings if (known := value(timing)) is not None]
            for batch, timings in sorted(self.timings.items())
        }
        return [(batch, median(values)) for batch, values in found.items() if values]


def kind(timing: Timing) -> int:
    """Which of `KINDS` a contender is."""
    if timing.method is None:
        return 0 if timing.contender == "generate" else 1
    return (3 if timing.engine == "graph" else 1) + timing.reduces


def by_batch(benches: Sequence[Bench]) -> dict[Setting, tuple[Series, ...]]:
    """Return the contenders of each setting that was measured at two batches or more.

    Predictors that drop nothing are left out: they lie on the unpruned model's curve.
    """
    settings: dict[Setting, dict[tuple[str, str], dict[int, list[Timing]]]] = {}
    for bench in benches:
        made = bench.made
        for timing in bench.timings:
            if not timing.overhead:
                load = timing.load
                setting = Setting(bench.model, made.device, made.dtype, load.prompt, load.new_tokens)
                found = settings.setdefault(setting, {}).setdefault((timing.label, timing.engine), {})
                found.setdefault(load.batch, []).append(timing)
    drawn = {
        setting: found
        for setting, found in settings.items()
        if len({batch for batches in found.values() for batch in batches}) > 1
    }
    names = list(dict.fromkeys(name for found in drawn.values() for name in found))
    return {
        setting: tuple(
            Series(*name, names.index(name), {batch: tuple(timings) for batch, timings in batches.items()})
            for name, batches in found.items()
        )
        for setting, found in drawn.items()
    }


def curve(series: Sequence[Series], title: str, value: Value, name: str) -> str | None:
    """A quantity against the batch, both on logarithmic axes; None where nobody measured it.

    Dashes mean transformers. `name` makes ids unique.
    """
    drawn = [(one, one.points(value)) for one in series]
    batches = sorted({x for _, points in drawn for x, _ in points})
    if not batches or not any(y > 0 for _, points in drawn for _, y in points):
        return None
    with canvas(3.6, 2.9) as (figure, axes):
        for one, points in drawn:
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker=MARKERS[one.marker],
                color=CURVES[one.colour],
                linestyle="-" if one.engine == "graph" else "--",
                linewidth=1.2,
                markersize=4.2,
            )
        axes.set_xscale("log", base=2)
        _logarithmic(axes)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("batch, rows at once")
        axes.set_title(title, fontsize=8.5, color=MUTED)
        return as_svg(figure, name)


def roofline(benches: Sequence[Bench], name: str) -> str | None:
    """FLOPs per second against FLOPs per byte, of documents with one device, dtype and shape.

    A circle is a decode step, a diamond a prefill; filled where a method drops tokens. The lines are the
    device's measured limits, the best of the documents'. Bytes are those that must be read: weights, and at
    decode keys and values. Predictors that drop nothing are left out; None where nothing is left.
    """
    memory = max(bench.bytes_per_second for bench in benches)
    matrix = max(bench.flops_per_second for bench in benches)
    points = [point for bench in benches for point in _points(bench)]
    if not points:
        return None
    ridge = matrix / memory
    reached = [ridge, *(point.per_byte for point in points)]
    left, right = min(reached) / 2, max(reached) * 2
    decode = [p for p in points if p.phase == "decode" and kind(p.timing) == 3]
    batches = sorted({point.timing.load.batch for point in decode})
    with canvas(5.6, 3.6) as (figure, axes):
        roof = [left * memory, matrix, matrix]
        axes.plot([left, ridge, right], [y / 1e12 for y in roof], color=MUTED, linewidth=1.2)
        _note(axes, f"matrix products: {matrix / 1e12:.0f} TFLOP/s", right, matrix, (0, 4))
        _note(axes, f"memory: {memory / 1e12:.2f} TB/s", ridge / 3, matrix / 3, (-8, 0))
        for point in points:
            colour = CURVES[kind(point.timing)]
            axes.plot(
                point.per_byte,
                point.per_second / 1e12,
                "o" if point.phase == "decode" else "D",
                color=colour,
                markersize=4.8,
                markeredgewidth=1.1,
                markerfacecolor=colour if point.timing.reduces else PAPER,
            )
        for batch in dict.fromkeys(batches[:1] + batches[-1:]):
            point = next(point for point in decode if point.timing.load.batch == batch)
            _note(axes, f"batch {batch}", point.per_byte, point.per_second, (-7, 4))
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        _logarithmic(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("FLOPs per byte that must be read")
        axes.set_title("TFLOP/s attained", fontsize=8.5, color=MUTED)
        return as_svg(figure, name)


def _note(axes: Axes, text: str, x: float, flops: float, offset: tuple[int, int]) -> None:
    """Write a text that ends at a point, moved by so many points of type."""
    axes.annotate(
        text,
        (x, flops / 1e12),
        offset,
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=MUTED,
    )


@dataclass(frozen=True)
class Point:
    """A contender's prefill or decode step: FLOPs per byte, FLOPs per second."""

    timing: Timing
    phase: str
    per_byte: float
    per_second: float


def _points(bench: Bench) -> Iterator[Point]:
    """Yield what a document's timings are in both phases, but for predictors that drop nothing."""
    for timing in (timing for timing in bench.timings if not timing.overhead):
        flops = spending.prefill_flops(bench, timing)
        weights = spending.weight_bytes(bench.shape, bench.bytes_per_number, prefill=True)
        yield Point(timing, "prefill", flops / weights, 1000 * flops / timing.first_token.median)
        read, flops_of_step = spending.step_bytes(bench, timing), spending.step_flops(bench, timing)
        if read and flops_of_step and timing.per_token:
            per_second = 1000 * flops_of_step / timing.per_token.median
            yield Point(timing, "decode", flops_of_step / read, per_second)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    low, high = axes.get_ylim()
    # Less than two decades: the decades' own ticks would leave the axis almost bare.
    axes.yaxis.set_minor_formatter(FuncFormatter(_some) if high / low < 100 else NullFormatter())
    axes.tick_params(length=0, which="both", labelsize=8)
    axes.grid(color=LINE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def _some(value: float, _: int | None = None) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
