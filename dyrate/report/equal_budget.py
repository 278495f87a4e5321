"""DyRate at equal budget: its standings, the default setting first, and quality against budget, drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from dyrate.analysis import pareto
from dyrate.analysis.claims import default_standings
from dyrate.analysis.equal_budget import Standing
from dyrate.analysis.measurement import Measurement
from dyrate.analysis.tables import heading
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import figures
from dyrate.report.drawing import Picture, named
from dyrate.report.looks import Look, family
from dyrate.study import Study

Grouped = list[tuple[Measurement, list[Standing]]]


def by_default(standings: Sequence[Standing]) -> dict[str, tuple[Grouped, Grouped]]:
    """Per model the standings of its default DyRate, and those of its other settings, by setting."""
    defaults = {id(s) for group in default_standings(standings).values() for s in group}
    models: dict[str, tuple[dict[Measurement, list[Standing]], dict[Measurement, list[Standing]]]] = {}
    for standing in standings:
        first, others = models.setdefault(standing.mine.model, ({}, {}))
        (first if id(standing) in defaults else others).setdefault(standing.mine, []).append(standing)
    return {name: (list(first.items()), list(others.items())) for name, (first, others) in models.items()}


def looks_of(
    model: str,
    measurements: Sequence[Measurement],
    families: Mapping[str, Look],
    groups: Sequence[str] = pareto.GROUPS,
) -> dict[str, Look]:
    """The look of each curve of a model, which is its family's."""
    settings = pareto.settings(model, measurements, groups)
    return {label: families[family(found[0])] for label, found in settings.items()}


def pictures(
    study: Study, measurements: Sequence[Measurement], families: Mapping[str, Look]
) -> dict[str, Any]:
    """The pictures of quality against retained tokens per model, the mean first, and their looks."""
    by_model = {
        model: {name: pareto.curves(model, measurements, name) for name in (None, *study.benchmarks)}
        for model in dict.fromkeys(m.model for m in measurements)
    }
    # Without DyRate there is nothing to compare, and without a second setting there is no curve.
    drawn = {model: found for model, found in by_model.items() if any(map(pareto.dyrates, found[None]))}
    looks: dict[str, Look] = {}
    for model in drawn:
        looks |= looks_of(model, measurements, families)
    shown = {label for panels in drawn.values() for curves in panels.values() for label in curves}
    return {
        "looks": {label: look for label, look in looks.items() if label in shown},
        "means": [
            (model, len(pareto.averaged(model, measurements)), _panel(model, panels[None], looks, None))
            for model, panels in drawn.items()
        ],
        "panels": {
            model: [_panel(model, curves, looks, name) for name, curves in panels.items() if name and curves]
            for model, panels in drawn.items()
        },
    }


def _panel(
    model: str, curves: Mapping[str, pareto.Curve], looks: Mapping[str, Look], name: str | None
) -> Picture:
    title = f"{heading(name)}, {BENCHMARKS[name].primary.name}" if name else "mean score, % of unpruned"
    key = named("pareto", name or "mean", model)
    return figures.pareto(model, curves, looks, title, key, large=name is None)
