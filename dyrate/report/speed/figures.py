"""Pictures of measured time and memory: against the device's limits and the batch, and inside a step."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.pareto import TITLE
from dyrate.report.drawing import INK, MUTED, PAPER, Picture, canvas, gridded
from dyrate.report.looks import Look, Mark
from dyrate.speed.documents import BenchDocument, Timing
from dyrate.speed.passes import GROUPS, ProfiledPass
from dyrate.speed.series import Series, Value, roofline_points

Contender = tuple[str, str]
"""Label and engine."""
REPLAY = "replay"
ENGINE = "graph"
"""This package's own."""
PEER = Look("o", control=True)
SHADES = (1.0, 0.6, 0.35, 0.18)
"""Of the parts of a step: they are no methods, and have no colour."""
MEASURES: tuple[tuple[str, str, Value], ...] = (
    (
        "token",
        "milliseconds per token",
        lambda timing: timing.per_token_ms.median if timing.per_token_ms else None,
    ),
    ("throughput", "tokens per second, all rows, prefill included", lambda timing: timing.tokens_per_second),
    ("cache", "KV cache, GiB", lambda timing: timing.kv_bytes / 2**30),
    (
        "memory",
        "most memory at once, GiB",
        lambda timing: timing.peak_bytes / 2**30 if timing.peak_bytes else None,
    ),
)


def family(timing: Timing) -> str:
    """The family of methods that a contender is of; of replayed rates it is DyRate. A peer's is its name."""
    name = timing.method.name if timing.method else timing.contender
    return TITLE if name in (DYRATE, REPLAY) else name


def contenders(series: Iterable[Series], families: Mapping[str, Look]) -> dict[Contender, Mark]:
    """How each is drawn, in every setting alike: in its family's colour, no two with the same mark."""
    found: dict[Contender, Mark] = {}
    seen: Counter[Look] = Counter()
    for one in series:
        if (one.label, one.engine) not in found:
            look = families.get(family(one.timing), PEER)
            found[one.label, one.engine] = Mark.nth(look, seen[look])
            seen[look] += 1
    return found


def curve(
    setting: str,
    series: Sequence[Series],
    marks: Mapping[Contender, Mark],
    title: str,
    value: Value,
    name: str,
) -> Picture | None:
    """A quantity against the batch, both on logarithmic axes; None where nobody measured it.

    Dashes mean transformers.
    """
    drawn = [(one, one.points(value)) for one in series]
    batches = sorted({x for _, points in drawn for x, _ in points})
    if not batches or not any(y > 0 for _, points in drawn for _, y in points):
        return None
    with canvas(3.6, 2.9) as (figure, axes):
        for one, points in drawn:
            mark = marks[one.label, one.engine]
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                marker=mark.look.shape,
                color=mark.look.colour,
                markerfacecolor=PAPER if mark.hollow else mark.look.colour,
                linestyle="-" if one.engine == ENGINE else "--",
                linewidth=1.2,
                markersize=4.2,
            )
        axes.set_xscale("log", base=2)
        _logarithmic(axes)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("batch, rows at once")
        axes.set_title(title)
        return Picture(
            figure,
            name,
            f"{title[0].upper()}{title[1:]}, by batch, {setting}",
            ("contender", "engine", "batch", title),
            [(one.label, one.engine, str(x), float(y)) for one, points in drawn for x, y in points],
        )


def roofline(
    machine: str, benches: Sequence[BenchDocument], families: Mapping[str, Look], name: str
) -> Picture | None:
    """FLOPs per second against FLOPs per byte, of documents with one device, dtype and shape.

    A circle is a decode step, a diamond a prefill; hollow in transformers. The lines are the device's
    measured limits, the best of the documents'. Bytes are those that must be read: weights, and at decode
    keys and values. Predictors that drop nothing are left out; None where nothing is left.
    """
    memory = max(bench.limits.bytes_per_second for bench in benches)
    matrix = max(bench.limits.flops_per_second for bench in benches)
    points = [point for bench in benches for point in roofline_points(bench)]
    if not points:
        return None
    ridge = matrix / memory
    reached = [ridge, *(point.per_byte for point in points)]
    left, right = min(reached) / 2, max(reached) * 2
    decode = [p for p in points if p.phase == "decode" and p.timing.unpruned and p.timing.engine == ENGINE]
    batches = sorted({point.timing.batch for point in decode})
    with canvas(5.6, 3.6) as (figure, axes):
        roof = [left * memory, matrix, matrix]
        axes.plot([left, ridge, right], [y / 1e12 for y in roof], color=MUTED, linewidth=1.2)
        _note(axes, f"matrix products: {matrix / 1e12:.0f} TFLOP/s", right, matrix, (0, 4))
        _note(axes, f"memory: {memory / 1e12:.2f} TB/s", ridge / 3, matrix / 3, (-8, 0))
        for point in points:
            colour = families.get(family(point.timing), PEER).colour
            axes.plot(
                point.per_byte,
                point.per_second / 1e12,
                "o" if point.phase == "decode" else "D",
                color=colour,
                markersize=4.8,
                markeredgewidth=1.1,
                markerfacecolor=colour if point.timing.engine == ENGINE else PAPER,
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
        return Picture(
            figure,
            name,
            f"Work against the device's limits, {machine}",
            ("contender", "batch", "prompt", "new tokens", "phase", "FLOPs per byte", "TFLOP/s"),
            [
                (p.timing.label, *map(str, load), p.phase, p.per_byte, p.per_second / 1e12)
                for p in points
                for load in [(p.timing.batch, p.timing.prompt, p.timing.new_tokens)]
            ],
        )


def bars(title: str, steps: Sequence[ProfiledPass], name: str) -> Picture:
    """A bar for each pass, as long as its kernels take."""
    with canvas(3.9, 0.5 + 0.56 * len(steps)) as (figure, axes):
        for row, step in enumerate(steps):
            left = 0.0
            for number, milliseconds in enumerate(step.groups):
                axes.barh(-row, milliseconds, 0.36, left, color=INK, alpha=SHADES[number], linewidth=0)
                left += milliseconds
            text = axes.annotate(step.label, (0, 0.22 - row), fontsize=7.5, color=MUTED, va="bottom")
            text.set_in_layout(False)  # a long label must not leave the bars no room
        axes.set_ylim(0.78 - len(steps), 0.8)
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
        axes.set_xlabel("milliseconds")
        return Picture(
            figure,
            name,
            title,
            ("contender", "batch", *(f"{group}, ms" for group in GROUPS)),
            [(step.timing.name, str(step.timing.batch), *step.groups) for step in steps],
        )


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
