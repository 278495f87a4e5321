"""What the paper leaves open and this study settled: the recipes of its predictors, with our reasons."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyrate.errors import DyrateError
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictors import read_record
from dyrate.report.measured import Measurement


@dataclass(frozen=True)
class Choice:
    """A setting, its value for each of the predictors (one text where all have the same), and why."""

    name: str
    value: str
    why: str


def choices(measurements: Iterable[Measurement]) -> tuple[Choice, ...]:
    """The choices behind the predictors of these rows; none where no record of a predictor is at hand."""
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
    return tuple(
        Choice(name, _value({key: recipe.get(name) for key, recipe in recipes.items()}), why)
        for name, why in Recipe.reasons().items()
    )


def _value(found: dict[str, Any]) -> str:
    texts = {key: _text(value) for key, value in found.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{key}: {text}" for key, text in texts.items())


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
