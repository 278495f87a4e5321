"""What is lost against the unpruned model, and for which budget: three kinds of figure."""

from collections import Counter
from collections.abc import Mapping, Sequence

from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.pareto import Curve, dyrates
from dyrate.analysis.tables import heading
from dyrate.report.drawing import (
    INK,
    LINE,
    MARKERS,
    MODELS,
    MUTED,
    PAPER,
    Picture,
    canvas,
    gridded,
    named,
)
from dyrate.report.looks import Look, Mark, family, looks


def panels(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Measurements that share a panel: on each model, a method's first setting, its second one, and so on."""
    groups: dict[tuple[str, str, int], list[Measurement]] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for m in (m for m in measurements if m.kind != NONE):
        setting = m.kind, m.decoding, m.reference
        groups.setdefault((m.kind, m.decoding, seen[setting]), []).append(m)
        seen[setting] += 1
    return list(groups.values())


def differences(
    label: str,
    shown: Sequence[Measurement],
    measurements: Sequence[Measurement],
    benchmarks: Sequence[str],
    name: str,
) -> Picture | None:
    """Forest plot of the shown measurements: difference to the unpruned model, in percent of its score.

    One line per benchmark, one marker per model; a filled marker's 95% interval excludes zero. None if
    nothing shown has a difference. `label` says what is shown.
    """
    models = list(dict.fromkeys(m.reference for m in measurements))
    points = [
        (benchmarks.index(benchmark), models.index(m.reference), *point)
        for m in shown
        for benchmark in benchmarks
        if (point := _difference(m, benchmark))
    ]
    if not points:
        return None
    with canvas(3.3, 0.55 + 0.235 * len(benchmarks)) as (figure, axes):
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
        axes.set_yticks(range(len(benchmarks)), [heading(name) for name in benchmarks])
        axes.set_ylim(len(benchmarks) - 0.5, -0.5)
        axes.set_xlim(*_limits([value for _, _, *rest in points for value in rest[:3]]))
        axes.grid(axis="x", color=LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        return Picture(
            figure,
            name,
            f"Difference to the unpruned model by benchmark, {label}",
            ("benchmark", "model", "difference, %", "low", "high"),
            [(heading(benchmarks[at]), models[model], *interval) for at, model, *interval, _ in points],
        )


def _difference(m: Measurement, benchmark: str) -> tuple[float, float, float, bool] | None:
    """In percent of the unpruned score: the paired difference, its interval, and whether that excludes zero.

    None where one is missing.
    """
    pair = m.pair(benchmark) if m.kind != NONE else None
    if not pair or pair[0].difference is None or pair[0].verdict is None:
        return None
    ends = (pair[0].difference_low or 0.0, pair[0].difference_high or 0.0)
    value, low, high = (number / (pair[1].value / 100) for number in (pair[0].difference, *ends))
    return value, low, high, pair[0].verdict != "open"


def tradeoff(
    model: str,
    measurements: Sequence[Measurement],
    benchmarks: Sequence[str],
    phase: str,
    families: Mapping[str, Look] | None = None,
) -> Picture | None:
    """Score kept, mean percentage of the unpruned model's, against visual tokens kept in a phase.

    `phase` is "prefill" or "decode". Marks are those of `legend`, `families` the report's looks. None where
    no measurement of the model has both.
    """
    marks = _marks(measurements, families)
    points = []
    for m in (m for m in measurements if m.reference == model):
        spent = m.budget(*benchmarks)
        share = spent.prefill if phase == "prefill" else spent.decode
        kept = m.kept(benchmarks)
        if share is not None and kept is not None:
            points.append((100 * share, kept, m))
    if not points:
        return None
    with canvas(4.4, 3.0) as (figure, axes):
        axes.set_ylim(min(0.0, *(y for _, y, _ in points)) - 4, max(105.0, *(y + 5 for _, y, _ in points)))
        axes.set_xlim(-4, 106)
        for x, y, m in points:
            look, colour = marks[m].look, marks[m].look.colour
            face = PAPER if marks[m].hollow else colour
            axes.plot(x, y, look.shape, color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.4)
        axes.set_xlabel(f"visual tokens per layer at {phase}, % of V")
        axes.set_title("score kept, % of unpruned")
        gridded(axes)
        return Picture(
            figure,
            named("tradeoff", phase, model),
            f"Score kept against visual tokens at {phase}, {model}",
            ("method", f"visual tokens at {phase}, % of V", "score kept, % of unpruned"),
            [(m.title, x, y) for x, y, m in points],
        )


def pareto(
    model: str,
    curves: Mapping[str, Curve],
    looks: Mapping[str, Look],
    title: str,
    name: str,
    large: bool = False,
) -> Picture:
    """Quality of a model against retained tokens; `looks` has each curve's."""
    with canvas(*((4.9, 3.6) if large else (2.9, 2.5))) as (figure, axes):
        # DyRate last, on top of the others.
        for label, curve in reversed(list(curves.items())):
            look, mine = looks[label], dyrates(label)
            axes.plot(
                [100 * x for x, _ in curve],
                [y for _, y in curve],
                look.shape,
                linestyle=":" if look.control else "-",
                color=look.colour,
                markerfacecolor=PAPER if mine and "," in label else look.colour,
                linewidth=1.8 if mine else 1.0,
                markersize=5 if mine else 3.6,
            )
        axes.set_xlim(-3, 104)
        axes.set_xlabel("visual tokens per layer, % of V")
        axes.set_title(title, color=INK)
        gridded(axes)
        axes.tick_params(labelcolor=MUTED)
        return Picture(
            figure,
            name,
            f"{title}, against visual tokens per layer, {model}",
            ("method", "visual tokens per layer, % of V", title),
            [(label, 100 * x, y) for label, curve in curves.items() for x, y in curve],
        )


def legend(
    measurements: Sequence[Measurement], families: Mapping[str, Look] | None = None
) -> list[tuple[Mark, str]]:
    """The marks of `tradeoff` and the settings that they stand for, joined where models share a mark."""
    labels: dict[Mark, dict[str, None]] = {}
    for m, mark in _marks(measurements, families).items():
        labels.setdefault(mark, {})[m.title] = None
    return [(mark, " / ".join(names)) for mark, names in labels.items()]


def _marks(
    measurements: Sequence[Measurement], families: Mapping[str, Look] | None
) -> dict[Measurement, Mark]:
    families = looks(measurements) if families is None else families
    seen: Counter[tuple[str, str]] = Counter()
    marks = {}
    for m in measurements:
        key = m.reference, family(m)
        marks[m] = Mark(families[key[1]], m.kind != NONE and seen[key] > 0)
        seen[key] += 1
    return marks


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The same span on every panel where possible, wider only for what would not fit."""
    return min(-105.0, *values), max(25.0, *values)
