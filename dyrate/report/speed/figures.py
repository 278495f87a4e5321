"""Pictures of measured time and memory: against the device's limits and the batch, and inside a step."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from dyrate.report.drawing import CURVES, MUTED, PAPER, as_svg, canvas, gridded
from dyrate.speed.decode_steps import ProfiledStep
from dyrate.speed.documents import BenchDocument
from dyrate.speed.series import Series, Value, kind, roofline_points

MARKERS = "oDs^vPX*"
MEASURES: tuple[tuple[str, Value], ...] = (
    ("milliseconds per token", lambda timing: timing.per_token_ms.median if timing.per_token_ms else None),
    ("tokens per second, all rows, prefill included", lambda timing: timing.tokens_per_second),
    ("KV cache, GiB", lambda timing: timing.kv_bytes / 2**30),
    ("most memory at once, GiB", lambda timing: timing.peak_bytes / 2**30 if timing.peak_bytes else None),
)


def look(series: Series) -> tuple[int, int]:
    """The numbers of a contender's colour and marker: when colours come again, each has another marker."""
    lap, colour = divmod(series.number, len(CURVES))
    return colour, (series.number + lap) % len(MARKERS)


def curve(series: Sequence[Series], title: str, value: Value, name: str) -> Markup | None:
    """A quantity against the batch, both on logarithmic axes; None where nobody measured it.

    Dashes mean transformers. `name` makes ids unique.
    """
    drawn = [(one, one.points(value)) for one in series]
    batches = sorted({x for _, points in drawn for x, _ in points})
    if not batches or not any(y > 0 for _, points in drawn for _, y in points):
        return None
    with canvas(3.6, 2.9) as (figure, axes):
        for one, points in drawn:
            colour, marker = look(one)
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker=MARKERS[marker],
                color=CURVES[colour],
                linestyle="-" if one.engine == "graph" else "--",
                linewidth=1.2,
                markersize=4.2,
            )
        axes.set_xscale("log", base=2)
        _logarithmic(axes)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("batch, rows at once")
        axes.set_title(title)
        return as_svg(figure, name)


def roofline(benches: Sequence[BenchDocument], name: str) -> Markup | None:
    """FLOPs per second against FLOPs per byte, of documents with one device, dtype and shape.

    A circle is a decode step, a diamond a prefill; filled where a method drops tokens. The lines are the
    device's measured limits, the best of the documents'. Bytes are those that must be read: weights, and at
    decode keys and values. Predictors that drop nothing are left out; None where nothing is left.
    """
    memory = max(bench.limits.bytes_per_second for bench in benches)
    matrix = max(bench.limits.flops_per_second for bench in benches)
    points = [point for bench in benches for point in roofline_points(bench)]
    if not points:
        return None
    ridge = matrix / memory
    reached = [ridge, *(point.per_byte for point in points)]
    left, right = min(reached) / 2, max(reached) * 2
    decode = [p for p in points if p.phase == "decode" and kind(p.timing) == 3]
    batches = sorted({point.timing.batch for point in decode})
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
            point = next(point for point in decode if point.timing.batch == batch)
            _note(axes, f"batch {batch}", point.per_byte, point.per_second, (-7, 4))
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        _logarithmic(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("FLOPs per byte that must be read")
        axes.set_title("TFLOP/s attained")
        return as_svg(figure, name)


def bars(steps: Sequence[ProfiledStep], name: str) -> Markup:
    """A bar for each step, as long as its kernels take; `name` makes ids unique."""
    with canvas(3.9, 0.5 + 0.56 * len(steps)) as (figure, axes):
        for row, step in enumerate(steps):
            left = 0.0
            for number, milliseconds in enumerate(step.groups):
                axes.barh(-row, milliseconds, 0.36, left, color=CURVES[number], linewidth=0)
                left += milliseconds
            text = axes.annotate(step.label, (0, 0.22 - row), fontsize=7.5, color=MUTED, va="bottom")
            text.set_in_layout(False)  # a long label must not leave the bars no room
        axes.set_ylim(0.78 - len(steps), 0.8)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
        axes.set_xlabel("milliseconds")
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


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    low, high = axes.get_ylim()
    # Less than two decades: the decades' own ticks would leave the axis almost bare.
    axes.yaxis.set_minor_formatter(FuncFormatter(_some) if high / low < 100 else NullFormatter())
    axes.tick_params(which="both", labelsize=8)
    gridded(axes)


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def _some(value: float, _: int | None = None) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
