"""The recipe of a predictor: all that decides which one comes out, but the model and the data."""

import difflib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dyrate.errors import DyrateError
from dyrate.predictor_training.gates import Estimator, Mode, Pruning
from dyrate.predictors import Kind, Output, PredictorConfig, Ranking

Loss = Literal["cross_entropy", "distillation"]


@dataclass(frozen=True)
class Recipe:
    """What to train and how. The first fields are those of `PredictorConfig` and `Pruning`, which see.

    The paper gives none of the values below; each is our choice, with its reason.
    """

    layer: int = 2
    kind: Kind = "mlp"
    rates: int = 20
    output: Output = "ordinal"
    """Not the paper's `classes`: with those, training on testbed-s ended at one rate for every input."""
    per_head: bool = False
    hidden: int = 32
    history: int = 4
    ranking: Ranking = "attention"
    ranking_hidden: int = 32
    lagged: tuple[int, ...] = ()
    mode: Mode = "select"
    prune_prefill: bool = True
    minimum: float = 0.0
    monotone: bool = False
    seed: int = 0
    """Of the initial weights, the noise, and the order of the data."""
    steps: int = 300
    """Optimiser steps of the rate predictor: some hundred weights settle in as many steps."""
    ranking_steps: int = 300
    """Optimiser steps of the rankers, before; no effect with the ranking `attention`."""
    batch_size: int = 16
    learning_rate: float = 1e-2
    """Of the rate predictor, at the start; it falls linearly to zero. AdamW without weight decay. At a third
    of it, 300 steps leave rates undecided: the sampled ones then cost far more than the most probable ones.
    """
    ranking_learning_rate: float = 3e-3
    """Of the rankers, likewise."""
    loss: Loss = "cross_entropy"
    """On the answers' tokens, as the paper says; `distillation` is the divergence KL(unpruned || pruned)."""
    budget_weight: float = 1.0
    """lambda: loss = task loss + lambda * retained share, so the nats that all visual tokens together may be
    worth. On testbed-s a fixed rate costs 0.4 (the first quarter dropped) to 1.5 nats per whole budget: at 1
    the two balance, below 0.3 everything is kept. At 0 there is no reason to prune.
    """
    estimator: Estimator = "straight_through"
    """Whether training prunes as inference does, with whole masks, or with their mixtures."""
    temperature_start: float = 1.0
    temperature_end: float = 0.3
    """Of Gumbel-Softmax, falling geometrically: first every rate gets gradients, then few."""
    caption_share: float = 0.5
    """Share of captions in the testbed's data: they have the many decode steps, questions the most scores."""
    longest_answer: int = 128
    """Answers are cut at so many tokens."""
    validation_examples: int = 128

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = _typed(field.name, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for name, fits, expected in (
            ("steps", self.steps >= 1, "at least 1"),
            ("ranking_steps", self.ranking_steps >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("ranking_learning_rate", self.ranking_learning_rate > 0, "above 0"),
            ("budget_weight", self.budget_weight >= 0, "0 or more"),
            ("temperature_end", self.temperature_end > 0, "above 0"),
            ("temperature_start", self.temperature_start >= self.temperature_end, "at least temperature_end"),
            ("caption_share", 0 <= self.caption_share <= 1, "a share, from 0 to 1"),
            ("longest_answer", self.longest_answer >= 2, "at least 2, a token and the end"),
            ("validation_examples", self.validation_examples >= 1, "at least 1"),
            ("lagged", not (self.lagged and self.mode == "evict"), 'none with mode="evict"'),
        ):
            if not fits:
                raise DyrateError(f"recipe: {name}={getattr(self, name)!r}: expected {expected}")
        self.config(heads=1)
        _ = self.pruning

    @classmethod
    def read(cls, text: str) -> "Recipe":
        """Return the recipe given as JSON text, or as the path of a JSON file; the default for other keys."""
        where = "--recipe"
        if not text.lstrip().startswith("{"):
            path = Path(text)
            where = f"--recipe {path}"
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise DyrateError(f"{where}: expected JSON text or a readable file ({error})") from None
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise DyrateError(f"{where}: {text!r:.80} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise DyrateError(f"{where}: {text!r:.80}: expected an object, {{...}}")
        return cls.of(values, where)

    @classmethod
    def of(cls, values: dict[str, Any], where: str = "recipe") -> "Recipe":
        """Return the recipe with these values; a `DyrateError` names an unknown key and its nearest one."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
                raise DyrateError(f"{where}: unknown key {key!r}; {hint}")
        return cls(**values)

    def config(self, heads: int) -> PredictorConfig:
        """Return the shape of the predictor for a model with so many query heads."""
        names = [field.name for field in fields(PredictorConfig) if field.name != "heads"]
        return PredictorConfig(heads=heads, **{name: getattr(self, name) for name in names})

    @property
    def pruning(self) -> Pruning:
        """What becomes of dropped tokens."""
        return Pruning(self.mode, self.prune_prefill, self.minimum, self.monotone)

    @property
    def learns_ranking(self) -> bool:
        """Whether rankers are trained."""
        return self.ranking != "attention"

    def temperature(self, step: int) -> float:
        """Return Gumbel-Softmax's temperature at a step, counted from 0, of the rate predictor."""
        done = step / max(self.steps - 1, 1)
        start, end = math.log(self.temperature_start), math.log(self.temperature_end)
        return math.exp(start + (end - start) * done)


def _typed(name: str, kind: Any, value: Any) -> Any:
    """Return a value in its field's type; a `DyrateError` for an unfit one."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise DyrateError(f"recipe: {name}={value!r}: expected one of {', '.join(get_args(kind))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(kind) is tuple:
        if isinstance(value, list | tuple) and all(type(entry) is int for entry in value):
            return tuple(value)
        raise DyrateError(f"recipe: {name}={value!r}: expected a list of layers")
    if type(value) is not kind:
        raise DyrateError(f"recipe: {name}={value!r}: expected a value of type {kind.__name__}")
    return value
