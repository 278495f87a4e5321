"""What is lost against the unpruned model, and for which budget: three kinds of figure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from markupsafe import Markup

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.measurements import NONE, Measurement, budget, relative_difference, score_kept
from dyrate.analysis.pareto import TITLE, Curve, dyrates
from dyrate.analysis.tables import heading
from dyrate.report.drawing import CURVES, INK, LINE, MARKERS, MODELS, MUTED, PAPER, as_svg, canvas, gridded

# Filled and hollow, by matplotlib's names for them.
GLYPHS = {
    "D": "◆◇", "o": "●○", "s": "■□", "v": "▼▽", "^": "▲△", "<": "◀◁", ">": "▶▷", "*": "★☆",
}  # fmt: skip
SHAPES = "Dosv^<>"


def panels(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Measurements that share a panel: on each model, a method's first setting, its second one, and so on."""
    groups: dict[tuple[str, str, int], list[Measurement]] = {}
    for m in measurements:
        if m.kind != NONE:
            nth = sum(
                m.reference in {other.reference for other in group}
                for key, group in groups.items()
                if key[:2] == (m.kind, m.decoding)
            )
            groups.setdefault((m.kind, m.decoding, nth), []).append(m)
    return list(groups.values())


def differences(
    shown: Sequence[Measurement], measurements: Sequence[Measurement], benchmarks: Sequence[str], name: str
) -> Markup | None:
    """Forest plot of the shown measurements: difference to the unpruned model, in percent of its score.

    One line per benchmark, one marker per model; a filled marker's 95% interval excludes zero. None if
    nothing shown has a difference. `name` makes the SVG's ids unique on the page.
    """
    models = list(dict.fromkeys(m.reference for m in measurements))
    points = [
        (benchmarks.index(benchmark), models.index(m.reference), *point)
        for m in shown
        for benchmark in benchmarks
        if (point := relative_difference(m, benchmark, measurements))
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
        return as_svg(figure, name)


def tradeoff(
    model: str, measurements: Sequence[Measurement], benchmarks: Sequence[str], phase: str, name: str
) -> Markup | None:
    """Score kept, mean percentage of the unpruned model's, against visual tokens kept in a phase.

    `phase` is "prefill" or "decode". Marks are those of `legend`. None where no measurement of the model has
    both.
    """
    marks = _marks(measurements)
    points = []
    for m in (m for m in measurements if m.reference == model):
        spent = budget(m, benchmarks, measurements)
        share = spent.prefill if phase == "prefill" else spent.decode
        kept = score_kept(m, benchmarks, measurements)
        if share is not None and kept is not None:
            points.append((100 * share, kept, marks[m]))
    if not points:
        return None
    with canvas(4.4, 3.0) as (figure, axes):
        axes.set_ylim(min(0.0, *(y for _, y, _ in points)) - 4, max(105.0, *(y + 5 for _, y, _ in points)))
        axes.set_xlim(-4, 106)
        for x, y, mark in points:
            colour = INK if mark.colour is None else CURVES[mark.colour]
            face = PAPER if mark.hollow else colour
            axes.plot(x, y, mark.shape, color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.4)
        axes.set_xlabel(f"visual tokens per layer at {phase}, % of V")
        axes.set_title("score kept, % of unpruned")
        gridded(axes)
        return as_svg(figure, name)


def colours(labels: Iterable[str]) -> dict[str, int]:
    """A number for each label, for its colour: 0 for DyRate's, others in turn."""
    others, numbers = count(), {}
    for label in labels:
        numbers[label] = 0 if dyrates(label) else 1 + next(others) % (len(CURVES) - 1)
    return numbers


def pareto(
    curves: Mapping[str, Curve], numbers: Mapping[str, int], title: str, name: str, large: bool = False
) -> Markup:
    """Quality against retained tokens; `numbers` are those of `colours`. `name` makes ids unique."""
    with canvas(*((4.4, 3.3) if large else (2.9, 2.5))) as (figure, axes):
        # DyRate last, on top of the others.
        for label, curve in reversed(list(curves.items())):
            colour = CURVES[numbers[label]]
            axes.plot(
                [100 * x for x, _ in curve],
                [y for _, y in curve],
                "D-" if dyrates(label) else "o-",
                color=colour,
                markerfacecolor=PAPER if dyrates(label) and label != TITLE else colour,
                linewidth=1.8 if dyrates(label) else 1.0,
                markersize=5 if dyrates(label) else 3.2,
            )
        axes.set_xlim(-3, 104)
        axes.set_xlabel("visual tokens per layer, % of V")
        axes.set_title(title, color=INK)
        gridded(axes)
        axes.tick_params(labelcolor=MUTED)
        return as_svg(figure, name)


@dataclass(frozen=True)
class Mark:
    """How a setting looks in `tradeoff`: a method has a shape and colour, its further settings are hollow."""

    shape: str  # matplotlib's name
    colour: int | None  # a curve's number; None is ink
    hollow: bool

    @property
    def glyph(self) -> str:
        """The character that looks like it."""
        return GLYPHS[self.shape][self.hollow]


def legend(measurements: Sequence[Measurement]) -> list[tuple[Mark, str]]:
    """The marks of `tradeoff` and the settings that they stand for, joined where models share a mark."""
    labels: dict[Mark, dict[str, None]] = {}
    for m, mark in _marks(measurements).items():
        labels.setdefault(mark, {})[m.title] = None
    return [(mark, " / ".join(names)) for mark, names in labels.items()]


def _marks(measurements: Sequence[Measurement]) -> dict[Measurement, Mark]:
    listed = dict.fromkeys(m.kind for m in measurements if m.kind != NONE)
    methods = sorted(
        listed, key=lambda method: method != DYRATE
    )  # DyRate's as on every picture, others in order
    seen: Counter[tuple[str, str]] = Counter()
    marks = {}
    for m in measurements:
        if m.kind == NONE:
            marks[m] = Mark("*", None, False)
            continue
        at = methods.index(m.kind) + (DYRATE not in methods)
        marks[m] = Mark(SHAPES[at % len(SHAPES)], at % len(CURVES), seen[m.reference, m.kind] > 0)
        seen[m.reference, m.kind] += 1
    return marks


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The same span on every panel where possible, wider only for what would not fit."""
    return min(-105.0, *values), max(25.0, *values)
