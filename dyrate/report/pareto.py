"""Quality against retained tokens: one curve per method, DyRate's among them."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report.ablations import DYRATE
from dyrate.report.drawing import CURVES, INK, LINE, MUTED, as_svg, canvas
from dyrate.report.equal_budget import Phase, families, spent
from dyrate.report.measured import NONE, Measurement, budget, primary

Curve = tuple[tuple[float, float], ...]  # (share of V, score), by rising share
GROUPS = ("main", "budget")  # the ablations' settings would crowd the picture


def curves(model: str, measurements: Sequence[Measurement], benchmark: str | None) -> dict[str, Curve]:
    """Each method's settings on a benchmark, DyRate's first, all but DyRate's up to the unpruned model.

    Without a benchmark: the means over all that the unpruned model has, in percent of its score; settings
    that lack one of them, such as those of captions only, are left out.
    """
    shown = _shown(model, measurements)
    names = (benchmark,) if benchmark else averaged(model, measurements)
    dyrate = tuple(m for m in shown if m.method == DYRATE)
    ends = [m for m in shown if m.method == NONE]
    found = {"DyRate": _curve(dyrate, names, shown, benchmark is None)} if dyrate else {}
    for label, settings in families(shown).items():
        own = _curve(settings, names, shown, benchmark is None)
        if own:
            end = _curve(ends, names, shown, benchmark is None)
            found[label] = tuple(sorted({*own, *end}))
    return {label: curve for label, curve in found.items() if curve}


def averaged(model: str, measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """The benchmarks of the mean: those of the unpruned model."""
    whole = next((m for m in _shown(model, measurements) if m.method == NONE), None)
    return tuple(name for name in (whole.result["benchmarks"] if whole else ()) if name in BENCHMARKS)


def figure(found: Mapping[str, Curve], colours: Mapping[str, int], title: str, name: str) -> str:
    """The curves as SVG; `colours` numbers the labels, the same on every panel. `name` makes ids unique."""
    with canvas(2.9, 2.5) as (drawing, axes):
        # DyRate last, on top of the others.
        for label, curve in reversed(list(found.items())):
            ours = label == "DyRate"
            axes.plot(
                [100 * x for x, _ in curve],
                [y for _, y in curve],
                "D-" if ours else "o-",
                color=CURVES[colours[label]],
                linewidth=1.8 if ours else 1.0,
                markersize=5 if ours else 3.2,
            )
        axes.set_xlim(-3, 104)
        axes.set_xlabel("visual tokens per layer, % of V")
        axes.set_title(title, fontsize=8.5, color=INK)
        axes.grid(color=LINE, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelcolor=MUTED)
        return as_svg(drawing, name)


def _shown(model: str, measurements: Sequence[Measurement]) -> list[Measurement]:
    return [
        m
        for m in measurements
        if m.model == model and m.group in GROUPS and m.decoding == measurements[0].decoding
    ]


def _curve(
    settings: Sequence[Measurement], names: Sequence[str], among: Sequence[Measurement], relative: bool
) -> Curve:
    return tuple(sorted(point for m in settings if (point := _point(m, names, among, relative))))


def _point(
    m: Measurement, names: Sequence[str], among: Sequence[Measurement], relative: bool
) -> tuple[float, float] | None:
    whole = next((other for other in among if other.method == NONE), None)
    shares, scores = [], []
    for name in names:
        mine, unpruned = m.benchmark(name), whole.benchmark(name) if whole else None
        phase: Phase = "both" if BENCHMARKS[name].group == "caption" else "prefill"
        share = spent(budget(m, [name], among), phase, mine=m.method == DYRATE)
        scale = primary(unpruned)[0]["value"] / 100 if unpruned and relative else 1.0
        if mine is None or share is None or not scale:
            return None
        shares.append(share)
        scores.append(primary(mine)[0]["value"] / scale)
    return (fmean(shares), fmean(scores)) if shares else None
