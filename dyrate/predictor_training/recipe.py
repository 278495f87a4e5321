"""The recipe of a predictor: all that decides which one comes out, but the model and the data."""

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, Strict, create_model

from dyrate.errors import DyrateError
from dyrate.predictor_training.token_gates import Estimator, Mode, Pruning
from dyrate.predictors import Kind, Output, PredictorConfig, Ranking
from dyrate.typed import Record

_BEYOND = 2**63
Loss = Literal["cross_entropy", "distillation"]


@dataclass(frozen=True)
class Recipe:
    """What to train and how. The first fields are those of `PredictorConfig` and `Pruning`, which see.

    The paper gives none of the values below: each is our choice. The report lists them with their reasons,
    the text in each annotation.
    """

    layer: Annotated[int, "prune layer K: FastV's, so that both spend the same below it"] = 2
    kind: Annotated[
        Kind,
        "a lightweight classifier: one hidden layer; the table of predictors has others",
    ] = "mlp"
    rates: Annotated[int, "K_r: steps of 5% are finer than what the score of a benchmark tells apart"] = 20
    output: Annotated[
        Output,
        "a centre among the rates and a width; a logit for each rate, as the paper has it, ended at one "
        "rate for every input of testbed-s with straight_through, and gains nothing with soft_gradient",
    ] = "ordinal"
    per_head: Annotated[bool, "the paper's input: four numbers, averaged over heads"] = False
    hidden: Annotated[int, "of the hidden layer: wide for four numbers, and nothing beside the model"] = 32
    history: Annotated[int, "steps that a window sees"] = 4
    ranking: Annotated[
        Ranking,
        "which tokens go: the paper ranks by attention and does not say by which layer's; K-1's",
    ] = "attention"
    ranking_hidden: Annotated[int, "of a learned ranking's hidden layer"] = 32
    lagged: Annotated[
        tuple[int, ...], "layers whose attention one step before ranks too: none in the paper", Strict(False)
    ] = ()
    mode: Annotated[
        Mode,
        "at decode every step chooses anew; whether the paper's tokens go for good is not said",
    ] = "select"
    prune_prefill: Annotated[bool, "one-token answers spend everything at prefill"] = True
    minimum: Annotated[float, "share that stays at any rate: K_r alone keeps 1/K_r"] = 0.0
    monotone: Annotated[bool, "steps may use more tokens than the one before"] = False
    seed: Annotated[
        int, "of the initial weights, the noise, and the order of the data", Field(gt=-_BEYOND, lt=_BEYOND)
    ] = 0
    steps: Annotated[
        int, "of the optimiser; the curve in predictor.json shows where it settles", Field(ge=1)
    ] = 300
    ranking_steps: Annotated[
        int, "of the optimiser, for a learned ranking, which comes first", Field(ge=1)
    ] = 300
    batch_size: Annotated[int, "answers per step; not tuned", Field(ge=1)] = 16
    learning_rate: Annotated[
        float,
        "AdamW without weight decay, falling linearly to zero; at a third of it, 300 steps of "
        "straight_through left rates undecided, and sampled ones cost far more than the most probable ones",
        Field(gt=0, lt=_BEYOND),
    ] = 1e-2
    ranking_learning_rate: Annotated[float, "of a learned ranking, likewise", Field(gt=0, lt=_BEYOND)] = 3e-3
    loss: Annotated[
        Loss,
        "the paper's, on the answers; or distillation, KL(unpruned || pruned)",
    ] = "cross_entropy"
    budget_weight: Annotated[
        float,
        "lambda, in nats for all visual tokens: the paper names no budget term, but cross-entropy "
        "alone has no reason to prune; 0.5 leaves near half of the tokens on the testbed",
        Field(ge=0, lt=_BEYOND),
    ] = 0.5
    estimator: Annotated[
        Estimator,
        "training prunes as inference does, with whole masks, and learns from attention under their "
        "mixtures; the gradients of straight_through make dropping look dearer than it is",
    ] = "soft_gradient"
    temperature_start: Annotated[
        float, "of Gumbel-Softmax, falling geometrically: first every rate learns", Field(lt=_BEYOND)
    ] = 1.0
    temperature_end: Annotated[float, "then those near the best one", Field(gt=0, lt=_BEYOND)] = 0.3
    caption_share: Annotated[
        float,
        "of the testbed's data: captions have the many decode steps, questions the most scores",
        Field(ge=0, le=1),
    ] = 0.5
    longest_answer: Annotated[int, "tokens that answers are cut at", Field(ge=2)] = 128
    validation_examples: Annotated[int, "held out, for the record and the mean rates", Field(ge=1)] = 128

    def __post_init__(self) -> None:
        if self.temperature_start < self.temperature_end:
            low, high = self.temperature_start, self.temperature_end
            raise DyrateError(f"temperature_start: {low} is not at least temperature_end, {high}")
        if self.lagged and self.mode == "evict":
            raise DyrateError(f'lagged: {self.lagged} does not go with mode="evict"; leave one out')
        self.config(heads=1)
        _ = self.pruning

    @classmethod
    def of(cls, values: dict[str, Any], where: str = "recipe") -> "Recipe":
        """Return the recipe with these values; a `DyrateError` has a line per mistake, with its key."""
        checked = _typed().of(values, lambda key: f"{where}: {key}")
        try:
            return cls(**dict(checked))
        except DyrateError as error:
            raise DyrateError(f"{where}: {error}") from None

    @classmethod
    def reasons(cls) -> dict[str, str]:
        """Return why each field has the default that it has."""
        hints = get_type_hints(cls, include_extras=True)
        return {entry.name: hints[entry.name].__metadata__[0] for entry in fields(cls)}

    def config(self, heads: int) -> PredictorConfig:
        """Return the shape of the predictor for a model with so many query heads."""
        names = [entry.name for entry in fields(PredictorConfig) if entry.name != "heads"]
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


@cache
def _typed() -> type[Record]:
    """The record of a recipe's values, each by itself."""
    hints = get_type_hints(Recipe, include_extras=True)
    found = {entry.name: (hints[entry.name], entry.default) for entry in fields(Recipe)}
    return create_model("Recipe", __base__=Record, **found)  # type: ignore[call-overload, no-any-return]
