"""The report's figures, drawn by matplotlib as SVG text that takes its colours from the page."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dyrate.report.measured import NONE, Measurement, budget, primary, unpruned, verdict

# Stand-ins in the drawing; the SVG text refers to the page's custom properties instead, so dark mode works.
COLOURS = {
    "#111111": "var(--ink)",
    "#777777": "var(--muted)",
    "#cccccc": "var(--line)",
    "#0000aa": "var(--model-0)",
    "#aa5500": "var(--model-1)",
    "#006644": "var(--model-2)",
    "#880088": "var(--model-3)",
    "#fefefe": "var(--paper)",
}
INK, MUTED, LINE, *MODELS, PAPER = COLOURS
MARKERS = "oDs^"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dyrate",
    "text.parse_math": False,  # labels come from configs: a dollar sign is a dollar sign
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
}


def differences(
    method: str, measurements: Sequence[Measurement], benchmarks: Sequence[str], name: str
) -> str | None:
    """Forest plot of one method (by label): difference to the unpruned model, in percent of its score.

    One line per benchmark, one marker per model; a filled marker's 95% interval excludes zero. None if no
    measurement of the method has a difference. `name` makes the SVG's ids unique on the page.
    """
    models = list(dict.fromkeys(m.model for m in measurements))
    points = [
        (benchmarks.index(benchmark), models.index(m.model), *point)
        for m in measurements
        if m.label == method
        for benchmark in benchmarks
        if (point := _relative_difference(m, benchmark, measurements))
    ]
    if not points:
        return None
    with _figure(3.3, 0.55 + 0.235 * len(benchmarks)) as (figure, axes):
        axes.axvline(0, color=MUTED, linewidth=0.8)
        spread = 0.36 / max(len(models), 1)
        for benchmark, model, value, low, high, significant in points:
            y = benchmark + (model - (len(models) - 1) / 2) * spread
            colour = MODELS[model % len(MODELS)]
            axes.plot([low, high], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
            face = colour if significant else PAPER
            axes.plot(
                value,
                y,
                MARKERS[model % len(MARKERS)],
                color=colour,
                markerfacecolor=face,
                markersize=4.6,
                markeredgewidth=1.1,
            )
        axes.set_yticks(range(len(benchmarks)), list(benchmarks))
        axes.set_ylim(len(benchmarks) - 0.5, -0.5)
        axes.set_xlim(*_limits([value for _, _, *rest in points for value in rest[:3]]))
        axes.tick_params(length=0)
        axes.grid(axis="x", color=LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        return _svg(figure, name)


def tradeoff(
    measurements: Sequence[Measurement], benchmarks: Sequence[str], phase: str, name: str
) -> str | None:
    """Score kept (mean over benchmarks, percent of the unpruned model's) against visual tokens kept in a phase.

    `phase` is "prefill" or "decode". None where no measurement has both.
    """
    models = list(dict.fromkeys(m.model for m in measurements))
    points = []
    for m in measurements:
        spent = budget(m, benchmarks, measurements)
        share = spent.prefill if phase == "prefill" else spent.decode
        kept = _kept(m, benchmarks, measurements)
        if share is not None and kept is not None:
            points.append((100 * share, kept, models.index(m.model), m.label))
    if not points:
        return None
    with _figure(4.9, 3.6) as (figure, axes):
        for x, y, model, _ in points:
            colour = MODELS[model % len(MODELS)]
            axes.plot(x, y, MARKERS[model % len(MARKERS)], color=colour, markersize=6)
        for (x, y, model, label), (dx, dy, anchor) in zip(points, _placed(points), strict=True):
            axes.annotate(
                label,
                (x, y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=anchor,
                va="center",
                fontsize=7,
                color=MODELS[model % len(MODELS)],
            )
        axes.set_xlim(-4, 106)
        axes.set_ylim(min(0, *(y for _, y, *_ in points)) - 3, max(105, *(y + 5 for _, y, *_ in points)))
        axes.set_xlabel(f"visual tokens per layer at {phase}, % of V")
        axes.set_title("score kept, % of unpruned", fontsize=8.5, color=MUTED)
        axes.grid(color=LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        return _svg(figure, name)


def _relative_difference(
    m: Measurement, benchmark: str, among: Sequence[Measurement]
) -> tuple[float, float, float, bool] | None:
    mine, reference = m.benchmark(benchmark), unpruned(m, among)
    whole = reference.benchmark(benchmark) if reference else None
    if m.method == NONE or mine is None or whole is None:
        return None
    score, difference = primary(mine)
    scale = primary(whole)[0]["value"] / 100
    if not scale or not difference or difference["low"] is None or difference["high"] is None:
        return None
    significant = verdict(score, difference) in ("better", "worse")
    return difference["value"] / scale, difference["low"] / scale, difference["high"] / scale, significant


def _kept(m: Measurement, benchmarks: Sequence[str], among: Sequence[Measurement]) -> float | None:
    reference = unpruned(m, among)
    shares = []
    for name in benchmarks:
        mine, whole = m.benchmark(name), reference.benchmark(name) if reference else None
        if mine and whole and primary(whole)[0]["value"]:
            shares.append(100 * primary(mine)[0]["value"] / primary(whole)[0]["value"])
    return fmean(shares) if shares else None


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The same span on every panel where possible, wider only for what would not fit."""
    return min(-105.0, *values), max(25.0, *values)


def _placed(points: Sequence[tuple[float, float, int, str]]) -> Iterator[tuple[float, float, str]]:
    """Offset of each label from its point, moved down where an earlier label of that side is near."""
    used: list[tuple[float, float, bool]] = []
    for x, y, *_ in points:
        right = x < 60
        shift = 0.0
        while any(
            side == right and abs(x - ux) < 30 and abs(y + shift - uy) < 4.2 for ux, uy, side in used
        ):
            shift -= 1.4
        used.append((x, y + shift, right))
        yield (7 if right else -7), shift * 1.8, ("left" if right else "right")


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element, byte for byte the same each time, its ids prefixed with `name`."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= id=")', f"{name}-", text)
    text = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    return text
