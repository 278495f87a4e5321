"""Pictures of quality against retained tokens, one colour per curve on every panel."""

from collections.abc import Iterable, Mapping
from itertools import count

from dyrate.analysis.pareto import OURS, Curve, ours
from dyrate.report.drawing import CURVES, INK, LINE, MUTED, PAPER, as_svg, canvas


def colours(labels: Iterable[str]) -> dict[str, int]:
    """A number for each label, for its colour: 0 for DyRate's, others in turn."""
    others, numbers = count(), {}
    for label in labels:
        numbers[label] = 0 if ours(label) else 1 + next(others) % (len(CURVES) - 1)
    return numbers


def figure(
    curves: Mapping[str, Curve], numbers: Mapping[str, int], title: str, name: str, large: bool = False
) -> str:
    """The curves as SVG; `numbers` are those of `colours`, as on every panel. `name` makes ids unique."""
    with canvas(*((4.4, 3.3) if large else (2.9, 2.5))) as (drawing, axes):
        # DyRate last, on top of the others.
        for label, curve in reversed(list(curves.items())):
            colour = CURVES[numbers[label]]
            axes.plot(
                [100 * x for x, _ in curve],
                [y for _, y in curve],
                "D-" if ours(label) else "o-",
                color=colour,
                markerfacecolor=PAPER if ours(label) and label != OURS else colour,
                linewidth=1.8 if ours(label) else 1.0,
                markersize=5 if ours(label) else 3.2,
            )
        axes.set_xlim(-3, 104)
        axes.set_xlabel("visual tokens per layer, % of V")
        axes.set_title(title, fontsize=8.5, color=INK)
        axes.grid(color=LINE, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=MUTED)
        return as_svg(drawing, name)
