"""What the paper leaves open and this study settled: the recipes of its predictors, with our reasons."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyrate.analysis.measurement import Measurement, grouped
from dyrate.errors import DyrateError
from dyrate.predictor_config import read_record
from dyrate.predictor_training.recipe import Recipe


@dataclass(frozen=True)
class Choice:
    """A setting, its value for each of the predictors (one text where all have the same), and why."""

    name: str
    value: str
    why: str


def without_effect(recipe: Mapping[str, Any]) -> frozenset[str]:
    """The fields of a recipe that change nothing about its predictor, whatever they say.

    A recipe may leave fields out; these have the defaults of `Recipe`.
    """
    has = {name: field.default for name, field in Recipe.model_fields.items()} | dict(recipe)
    idle = {
        "history": has["kind"] != "window",
        "hidden": has["kind"] == "linear",
        "ranking_hidden": has["ranking"] != "mlp",
        "ranking_steps": has["ranking"] == "attention",
        "ranking_learning_rate": has["ranking"] == "attention",
        "monotone": has["mode"] == "evict",  # what is gone stays gone: no later step uses more
    }
    return frozenset(name for name, here in idle.items() if here)


def choices(measurements: Iterable[Measurement]) -> tuple[Choice, ...]:
    """The choices behind the predictors of these rows; none where no record of a predictor is at hand.

    A setting is that of the predictors on which it has an effect, and left out where it has none on any.
    """
    specs = [m.result["method"] for m in measurements]
    folders = dict.fromkeys(str(spec["predictor"]) for spec in specs if "predictor" in spec)
    recipes: dict[str, dict[str, Any]] = {}
    for folder in folders:
        try:
            recipe = read_record(Path(folder)).get("recipe")
        except DyrateError:
            continue
        if isinstance(recipe, dict):
            recipes[Path(folder).name] = recipe
    if not recipes:
        return ()
    idle = {key: without_effect(recipe) for key, recipe in recipes.items()}
    settled = []
    for name, why in Recipe.reasons().items():
        values = {key: recipe.get(name) for key, recipe in recipes.items() if name not in idle[key]}
        if values:
            settled.append(Choice(name, _value(values, len(recipes)), why))
    return tuple(settled)


def _value(values: Mapping[str, Any], predictors: int) -> str:
    """One text where all predictors have it, else each value behind the names of those that have it."""
    named = grouped(values, lambda key: as_text(values[key]))
    if len(named) == 1 and len(values) == predictors:
        return next(iter(named))
    return "; ".join(f"{', '.join(keys)}: {text}" for text, keys in named.items())


def as_text(value: Any) -> str:
    """Return a setting's value as the tables print it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
