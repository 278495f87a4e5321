"""Quality against retained tokens: one curve per method and family of its settings, DyRate's among them.

A family of DyRate is one recipe but for lambda, with one set of the method's own settings: a sweep.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.equal_budget import Phase, families, spent
from dyrate.analysis.measurement import NONE, Measurement, grouped
from dyrate.analysis.predictor_settings import without_effect
from dyrate.evaluation.benchmarks import BENCHMARKS

Curve = tuple[tuple[float, float], ...]  # (share of V, score), by rising share
TITLE, SWEPT = "DyRate", "budget_weight"
GROUPS = ("main", "budget")  # the ablations' settings would crowd the picture


def curves(
    model: str, measurements: Sequence[Measurement], benchmark: str | None, groups: Sequence[str] = GROUPS
) -> dict[str, Curve]:
    """Each family's settings on a benchmark, DyRate's first, all but DyRate's up to the unpruned model.

    Without a benchmark: the means over all that the unpruned model has, in percent of its score; settings
    that lack one of them, such as those of captions only, are left out.
    """
    names = (benchmark,) if benchmark else averaged(model, measurements)
    relative = benchmark is None
    whole = _curve(_unpruned(model, measurements), names, relative)
    found = {}
    for label, family in settings(model, measurements, groups).items():
        own, first = _curve(family, names, relative), family[0]
        closed = own and first.model == model and not first.against and not _swept(first)
        found[label] = tuple(sorted({*own, *whole})) if closed else own
    return {label: curve for label, curve in found.items() if curve}


def sweeps(measurements: Sequence[Measurement]) -> dict[str, tuple[Measurement, ...]]:
    """DyRate's families: the first of the paper's as "DyRate", the first of ours as "DyRate+", others by the
    first of their predictors as well.
    """
    mine = (m for m in measurements if _swept(m))
    named: dict[str, tuple[Measurement, ...]] = {}
    for found in grouped(mine, _sweep).values():
        first = found[0]
        name = Path(str(first.result["method"].get("predictor", ""))).name
        whose = f"{TITLE}+" if first.origin == "ours" else TITLE
        label = f"{whose}, {name}" if whose in named else whose
        named[first.label if label in named else label] = tuple(found)
    return named


def settings(
    model: str, measurements: Sequence[Measurement], groups: Sequence[str] = GROUPS
) -> dict[str, tuple[Measurement, ...]]:
    """What each curve of a model is made of, DyRate's first; beside those of a model, the models that are
    measured against it, several of one trained connector in one curve, and what runs on them.
    """
    shown = [m for m in _shown(measurements, groups) if m.reference == model]
    found: dict[str, tuple[Measurement, ...]] = {}
    for name, own in grouped(shown, lambda m: m.model).items():
        on = "" if name == model else f" on {name}"
        found |= {f"{label}{on}": family for label, family in {**sweeps(own), **families(own)}.items()}
    models = grouped((m for m in shown if m.method == NONE != m.kind), lambda m: m.kind)
    return found | {family[0].title: tuple(family) for family in models.values()}


def dyrates(label: str) -> bool:
    """Whether a curve is one of DyRate's."""
    return label.startswith(TITLE)


def averaged(model: str, measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """The benchmarks of the mean: those of the unpruned model."""
    whole = _unpruned(model, measurements)
    return tuple(name for m in whole[:1] for name in m.result["benchmarks"] if name in BENCHMARKS)


def _swept(m: Measurement) -> bool:
    return m.method == DYRATE and not m.replays


def _sweep(m: Measurement) -> str:
    """What the settings of a family have in common; a predictor of unknown recipe is a family of its own."""
    own = {key: value for key, value in m.result["method"].items() if key != "predictor"}
    if not m.job or not m.job.predictor:
        return repr((sorted(own.items()), m.result["method"].get("predictor")))
    recipe = m.job.predictor.recipe
    idle = {SWEPT, *without_effect(recipe)}
    kept = {key: value for key, value in recipe.items() if key not in idle}
    return repr((sorted(own.items()), sorted(kept.items())))


def _shown(measurements: Sequence[Measurement], groups: Sequence[str]) -> list[Measurement]:
    return [m for m in measurements if m.group in groups and m.decoding == measurements[0].decoding]


def _unpruned(model: str, measurements: Sequence[Measurement]) -> list[Measurement]:
    return [m for m in _shown(measurements, GROUPS) if m.model == model and m.method == NONE]


def _curve(found: Sequence[Measurement], names: Sequence[str], relative: bool) -> Curve:
    return tuple(sorted(point for m in found if (point := _point(m, names, relative))))


def _point(m: Measurement, names: Sequence[str], relative: bool) -> tuple[float, float] | None:
    shares, scores = [], []
    for name in names:
        score, pair = m.score(name), m.pair(name)
        phase: Phase = "both" if BENCHMARKS[name].long else "prefill"
        share = spent(m.budget(name), phase, mine=m.method == DYRATE)
        if score is None or share is None or m.apart or (relative and not pair):
            return None
        shares.append(share)
        scores.append(score.value / (pair[1].value / 100) if pair and relative else score.value)
    return (fmean(shares), fmean(scores)) if shares else None
