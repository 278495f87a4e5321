"""What becomes of the visual tokens while an answer grows: by layer and step, and the rates of DyRate."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.tables import heading
from dyrate.evaluation.results import Steps
from dyrate.report.drawing import INK, MUTED, Picture, canvas, gridded, heat_map, named
from dyrate.report.learned import STYLES, Learned
from dyrate.report.looks import Look, family


def maps(
    model: str, measurements: Sequence[Measurement], benchmark: str, looks: Mapping[str, Look]
) -> Iterator[tuple[str, Picture]]:
    """The share of the visual tokens that each layer attends to at each step, a picture per reduced row.

    There is none of rows whose results do not hold it.
    """
    for m, total, by_step in _known(model, measurements, benchmark):
        if m.kind == NONE:
            continue
        layers = [[count / total for count in counts] for counts in zip(*by_step["mean"], strict=True)]
        end = _shown(by_step)
        figure = heat_map(
            [shares[:end] for shares in layers],
            looks[family(m)].colour,
            "visual tokens seen: layer (down) by step (across)",
        )
        title = f"Visual tokens by layer and step of {heading(benchmark)} answers, {m.title}, {model}"
        fields = ("layer", *(f"step {step}, % of V" for step in range(len(by_step["mean"]))))
        rows = [(str(layer), *(100 * share for share in shares)) for layer, shares in enumerate(layers)]
        row = [m.files.result.parent.name, m.decoding] if m.job else [m.key]
        yield m.title, Picture(figure, named("steps", benchmark, m.model, *row), title, fields, rows)


def rates(
    model: str, measurements: Sequence[Measurement], benchmark: str, looks: Mapping[str, Look]
) -> Learned | None:
    """The rate of DyRate's rows over the steps: its mean, and a standard deviation over answers either way.

    None where no result holds it.
    """
    found = [one for one in _known(model, measurements, benchmark) if one[0].method == DYRATE]
    if not found:
        return None
    legend: list[tuple[str, Look, str]] = []
    rows: list[tuple[str, str, str, float, float]] = []
    drawn: Counter[Look] = Counter()
    with canvas(4.4, 2.8) as (figure, axes):
        for m, total, by_step in found:
            look = looks[family(m)]
            style = STYLES[drawn[look] % len(STYLES)]
            drawn[look] += 1
            legend.append((m.title, look, style))
            points = [
                (100 * (1 - counts[-1] / total), 100 * deviation / total)
                for counts, deviation in zip(by_step["mean"], by_step["deviation"], strict=True)
            ]
            shown = points[: _shown(by_step)]
            low = [max(0.0, mean - spread) for mean, spread in shown]
            high = [min(100.0, mean + spread) for mean, spread in shown]
            axes.fill_between(range(len(shown)), low, high, color=look.colour, alpha=0.16, linewidth=0)
            axes.plot([mean for mean, _ in shown], style, color=look.colour, linewidth=1.5)
            rows += [
                (m.title, str(step), str(by_step["answers"][step]), *point)
                for step, point in enumerate(points)
            ]
        axes.set_ylim(0, 100)
        axes.set_xlim(left=0)
        axes.set_title("rate, % of the visual tokens that the last layer leaves out", color=INK)
        axes.set_xlabel("step of the answer")
        gridded(axes)
        axes.tick_params(labelcolor=MUTED)
    title = f"Rate over the steps of {heading(benchmark)} answers, {model}"
    fields = ("method", "step", "answers", "rate, %", "standard deviation")
    picture = Picture(figure, named("rate", benchmark, model), title, fields, rows)
    return Learned(model, tuple(legend), (picture,))


def _known(
    model: str, measurements: Sequence[Measurement], benchmark: str
) -> Iterator[tuple[Measurement, float, Steps]]:
    """Rows of a model whose results have steps, with the visual tokens that the unpruned model has."""
    for m in measurements:
        mine, theirs = (one and one.benchmark(benchmark) for one in (m, m.unpruned))
        tokens, total = mine and mine["visual_tokens"], theirs and theirs["visual_tokens"]
        if m.model != model or not tokens or not tokens["prefill"][0] or not total or not total["total"]:
            continue
        if (by_step := tokens.get("by_step")) and len(by_step["mean"]) > 1:
            yield m, total["total"], by_step


def _shown(by_step: Steps) -> int:
    """Steps that at least half of the answers have: later ones speak of the longest answers only."""
    return sum(2 * answers >= by_step["answers"][0] for answers in by_step["answers"])
