"""The pictures of a trace: attention over the steps of an answer, and by layer."""

from collections.abc import Iterator, Sequence
from math import isnan
from statistics import fmean
from typing import Final

from matplotlib.axes import Axes

from dyrate.analysis.tables import heading
from dyrate.report.drawing import MODELS, MUTED, Datum, Picture, canvas, gridded, heat_map, named
from dyrate.trace.files import Band, Summary, TracedBenchmark

_BAND: Final = ("mean", "low", "high")
ENDS = ("", " from", " to")  # of a band: its mean and interval


def shown_steps(traced: TracedBenchmark) -> int:
    """Steps that at least half of the answers have: later ones speak of the longest answers only."""
    return sum(2 * samples >= traced["samples"] for samples in traced["curve"]["samples"])


def curves(summaries: Sequence[Summary], benchmark: str) -> Picture:
    """Image (solid) and response mass (dashed) over the steps of an answer, with 95% bands.

    A colour per model.
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
    return Picture(
        figure,
        named("attention", benchmark),
        f"Attention on image and response over the steps of {heading(benchmark)} answers",
        ("model", "step", "answers", *(f"{of}{end}, %" for of in ("image", "response") for end in ENDS)),
        [row for _, model, traced in drawn for row in _rows(model, traced)],
        "; ".join(f"{model}: {_ends(traced)}" for _, model, traced in drawn),
    )


def layers(summaries: Sequence[Summary], index: int, benchmark: str) -> Picture:
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
    layers = [[row[layer] for row in rows] for layer in range(summary["layers"])]
    figure = heat_map(layers, colour, "attention on the image: layer (down) by step (across)", most)
    return Picture(
        figure,
        named("attention-layers", summary["model"], benchmark),
        f"Attention of {summary['model']} on the image by layer and step of {heading(benchmark)} answers",
        ("layer", *(f"step {step}, %" for step in range(len(rows)))),
        [(str(layer), *(100 * share for share in shares)) for layer, shares in enumerate(layers)],
        "Mean over steps, by layer: "
        + ", ".join(f"layer {layer} {100 * fmean(shares):.0f}%" for layer, shares in enumerate(layers)),
    )


def _rows(model: str, traced: TracedBenchmark) -> Iterator[tuple[Datum, ...]]:
    """All steps, the late ones too."""
    curve = traced["curve"]
    for step, answers in enumerate(curve["samples"]):
        ends = (_percent(band[end][step]) for band in (curve["img"], curve["res"]) for end in _BAND)
        yield model, str(step), str(answers), *(None if isnan(end) else end for end in ends)


def _line(axes: Axes, band: Band, steps: int, colour: str, style: str) -> None:
    mean = [100 * value for value in band["mean"][:steps]]
    low, high = ([_percent(end) for end in ends[:steps]] for ends in (band["low"], band["high"]))
    axes.fill_between(range(steps), low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(range(steps), mean, style, color=colour, linewidth=1.4)


def _percent(share: float | None) -> float:
    """NaN, which leaves a gap, where there is no interval."""
    return float("nan") if share is None else 100 * share


def _ends(traced: TracedBenchmark) -> str:
    last = shown_steps(traced) - 1
    image, response = traced["curve"]["img"]["mean"], traced["curve"]["res"]["mean"]
    return (
        f"image from {100 * image[0]:.0f}% at step 0 to {100 * image[last]:.0f}% at step {last}, "
        f"response from {100 * response[0]:.0f}% to {100 * response[last]:.0f}%"
    )
