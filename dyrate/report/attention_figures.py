"""The pictures of a trace: attention over the steps of an answer, and by layer."""

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from dyrate.analysis.tables import heading
from dyrate.report.drawing import MODELS, MUTED, as_svg, canvas, described, gridded
from dyrate.trace.files import Band, Summary, TracedBenchmark

SHADES = 20  # of a map: equal neighbours are one shape
STRENGTHS = 5  # of the scale below a map


def shown_steps(traced: TracedBenchmark) -> int:
    """Steps that at least half of the answers have: later ones speak of the longest answers only."""
    return sum(2 * samples >= traced["samples"] for samples in traced["curve"]["samples"])


def curves(summaries: Sequence[Summary], benchmark: str, name: str) -> Markup:
    """Image (solid) and response mass (dashed) over the steps of an answer, with 95% bands.

    A colour per model; `name` makes the SVG's ids unique on the page.
    """
    drawn = [
        (i, s["model"], s["benchmarks"][benchmark])
        for i, s in enumerate(summaries)
        if benchmark in s["benchmarks"]
    ]
    with canvas(3.3, 2.5) as (figure, axes):
        for index, _, traced in drawn:
            steps, colour = shown_steps(traced), MODELS[index % len(MODELS)]
            _line(axes, traced["curve"]["img"], steps, colour, "-")
            _line(axes, traced["curve"]["res"], steps, colour, "--")
        axes.set_ylim(0, 100)
        axes.set_xlim(left=0)
        axes.set_xlabel("step of the answer")
        axes.set_title("attention, % of the step’s total")
        gridded(axes)
        axes.tick_params(labelcolor=MUTED)
        svg = as_svg(figure, name)
    return described(
        svg,
        f"Attention on image and response over the steps of {heading(benchmark)} answers",
        "; ".join(f"{model}: {_ends(traced)}" for _, model, traced in drawn),
    )


def layers(summaries: Sequence[Summary], index: int, benchmark: str, name: str) -> Markup:
    """Image mass of one model by layer and step, the deeper the colour the more; one scale for all models."""
    summary = summaries[index]
    traced = summary["benchmarks"][benchmark]
    rows = traced["img_by_layer"][: shown_steps(traced)]
    most = max(
        value
        for other in summaries
        if benchmark in other["benchmarks"]
        for row in other["benchmarks"][benchmark]["img_by_layer"]
        for value in row
    )
    colour = MODELS[index % len(MODELS)]
    with canvas(3.5, 1.3 + 0.13 * summary["layers"]) as (figure, axes):
        for layer, values in enumerate(zip(*rows, strict=True)):
            start = 0
            for strength, run in groupby(round(SHADES * value / most) / SHADES for value in values):
                steps = len(list(run))
                _cell(axes, start - 0.5, layer - 0.5, steps, 1.0, colour, strength)
                start += steps
        width = len(rows) / STRENGTHS
        bottom = summary["layers"] + 1.2
        for i in range(STRENGTHS):
            strength = (i + 1) / STRENGTHS
            _cell(axes, i * width - 0.5, bottom, width, 0.7, colour, strength)
            label = f"{100 * strength * most:.0f}%"
            axes.text((i + 0.5) * width - 0.5, bottom + 1.6, label, ha="center", fontsize=7, color=MUTED)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set_ylim(bottom + 1.8, -0.5)
        axes.set_yticks(range(0, summary["layers"], max(1, summary["layers"] // 6)))
        axes.set_title("attention on the image: layer (down) by step (across)")
        axes.xaxis.tick_top()
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(labelcolor=MUTED)
        svg = as_svg(figure, name)
    means = [sum(row[layer] for row in rows) / len(rows) for layer in range(summary["layers"])]
    return described(
        svg,
        f"Attention of {summary['model']} on the image by layer and step of {heading(benchmark)} answers",
        "Mean over steps, by layer: "
        + ", ".join(f"layer {layer} {100 * mean:.0f}%" for layer, mean in enumerate(means)),
    )


def _line(axes: Axes, band: Band, steps: int, colour: str, style: str) -> None:
    mean = [100 * value for value in band["mean"][:steps]]
    low, high = ([_percent(end) for end in ends[:steps]] for ends in (band["low"], band["high"]))
    axes.fill_between(range(steps), low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(range(steps), mean, style, color=colour, linewidth=1.4)


def _percent(share: float | None) -> float:
    """NaN, which leaves a gap, where there is no interval."""
    return float("nan") if share is None else 100 * share


def _cell(axes: Axes, x: float, y: float, width: float, height: float, colour: str, strength: float) -> None:
    # Without smoothing, or the page would shine through between two cells.
    cell = Rectangle((x, y), width, height, facecolor=colour, alpha=strength, linewidth=0, antialiased=False)
    axes.add_patch(cell)


def _ends(traced: TracedBenchmark) -> str:
    last = shown_steps(traced) - 1
    image, response = traced["curve"]["img"]["mean"], traced["curve"]["res"]["mean"]
    return (
        f"image from {100 * image[0]:.0f}% at step 0 to {100 * image[last]:.0f}% at step {last}, "
        f"response from {100 * response[0]:.0f}% to {100 * response[last]:.0f}%"
    )
