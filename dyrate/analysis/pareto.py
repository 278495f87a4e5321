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
    shown = _shown(model, measurements, groups)
    names = (benchmark,) if benchmark else averaged(model, measurements)
    ends = [m for m in shown if m.method == NONE]
    by_label = {label: _curve(found, names, benchmark is None) for label, found in sweeps(shown).items()}
    for label, found in families(shown).items():
        own = _curve(found, names, benchmark is None)
        if own:
            end = _curve(ends, names, benchmark is None)
            by_label[label] = tuple(sorted({*own, *end}))
    return {label: curve for label, curve in by_label.items() if curve}


def sweeps(measurements: Sequence[Measurement]) -> dict[str, tuple[Measurement, ...]]:
    """DyRate's families: the first of the paper's as "DyRate", the first of ours as "DyRate+", others by the
    first of their predictors as well.
    """
    mine = (m for m in measurements if m.method == DYRATE and not m.replays)
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
    """What each curve of a model is made of."""
    shown = _shown(model, measurements, groups)
    return {**families(shown), **sweeps(shown)}


def dyrates(label: str) -> bool:
    """Whether a curve is one of DyRate's."""
    return label.startswith(TITLE)


def averaged(model: str, measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """The benchmarks of the mean: those of the unpruned model."""
    whole = next((m for m in _shown(model, measurements) if m.method == NONE), None)
    return tuple(name for name in (whole.result["benchmarks"] if whole else ()) if name in BENCHMARKS)


def _sweep(m: Measurement) -> str:
    """What the settings of a family have in common; a predictor of unknown recipe is a family of its own."""
    own = {key: value for key, value in m.result["method"].items() if key != "predictor"}
    if not m.job or not m.job.predictor:
        return repr((sorted(own.items()), m.result["method"].get("predictor")))
    recipe = m.job.predictor.recipe
    idle = {SWEPT, *without_effect(recipe)}
    kept = {key: value for key, value in recipe.items() if key not in idle}
    return repr((sorted(own.items()), sorted(kept.items())))


def _shown(
    model: str, measurements: Sequence[Measurement], groups: Sequence[str] = GROUPS
) -> list[Measurement]:
    return [
        m
        for m in measurements
        if m.model == model and m.group in groups and m.decoding == measurements[0].decoding
    ]


def _curve(found: Sequence[Measurement], names: Sequence[str], relative: bool) -> Curve:
    return tuple(sorted(point for m in found if (point := _point(m, names, relative))))


def _point(m: Measurement, names: Sequence[str], relative: bool) -> tuple[float, float] | None:
    shares, scores = [], []
    for name in names:
        score, whole = m.score(name), m.unpruned and m.unpruned.score(name)
        phase: Phase = "both" if BENCHMARKS[name].long else "prefill"
        share = spent(m.budget(name), phase, mine=m.method == DYRATE)
        scale = whole.value / 100 if whole and relative else 1.0
        if score is None or share is None or not scale:
            return None
        shares.append(share)
        scores.append(score.value / scale)
    return (fmean(shares), fmean(scores)) if shares else None
