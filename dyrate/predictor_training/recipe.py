"""The recipe of a predictor: all that decides which one comes out, but the model and the data."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator

from dyrate.errors import DyrateError
from dyrate.predictor_config import Kind, Output, PredictorConfig, Ranking
from dyrate.typed import Positive, Record

_BEYOND = 2**63
_AboveZero = Annotated[float, Field(gt=0, lt=_BEYOND)]
_Share = Annotated[float, Field(ge=0, le=1)]
Loss = Literal["cross_entropy", "distillation"]
Mode = Literal["evict", "select"]
Estimator = Literal["straight_through", "soft", "soft_gradient", "scaled_features"]
"""`straight_through`: whole masks, with the gradients that small changes of them would have. `soft`: mixtures
of masks. `soft_gradient`: whole masks, with the gradients of attention under their mixtures. These act on
attention. `scaled_features` is the paper's equation to the letter: mixtures multiply the features of the
visual tokens on entering layer K. Features have one value for all steps, so of each answer one step, drawn
anew for every batch, multiplies and learns.
"""


class Recipe(Record):
    """What to train and how. The first fields are those of `PredictorConfig` and of the method `dyrate`.

    The paper gives none of the values below: each is our choice. The report lists them with their reasons,
    the text under each.
    """

    layer: int = 2
    """prune layer K: FastV's, so that both spend the same below it"""
    kind: Kind = "mlp"
    """a lightweight classifier: one hidden layer; the table of predictors has others"""
    rates: int = 20
    """K_r: steps of 5% are finer than what the score of a benchmark tells apart"""
    output: Output = "ordinal"
    """a centre among the rates and a width; a logit for each rate, as the paper has it, ended at one rate for
    every input of testbed-s with straight_through, and gains nothing with soft_gradient"""
    per_head: bool = False
    """the paper's input: four numbers, averaged over heads"""
    hidden: int = 32
    """of the hidden layer: wide for four numbers, and nothing beside the model"""
    history: int = 4
    """steps that a window sees"""
    ranking: Ranking = "attention"
    """which tokens go: the paper ranks by attention and does not say by which layer's; K-1's"""
    ranking_hidden: int = 32
    """of a learned ranking's hidden layer"""
    lagged: Annotated[tuple[int, ...], Strict(False)] = ()
    """layers whose attention one step before ranks too: none in the paper"""
    mode: Mode = "select"
    """at decode every step chooses anew; whether the paper's tokens go for good is not said"""
    prune_prefill: bool = True
    """one-token answers spend everything at prefill"""
    minimum: _Share = 0.0
    """share that stays at any rate: K_r alone keeps 1/K_r"""
    monotone: bool = False
    """steps may use more tokens than the one before"""
    seed: Annotated[int, Field(gt=-_BEYOND, lt=_BEYOND)] = 0
    """of the initial weights, the noise, and the order of the data"""
    steps: Positive = 300
    """of the optimiser; the curve in predictor.json shows where it settles"""
    ranking_steps: Positive = 300
    """of the optimiser, for a learned ranking, which comes first"""
    batch_size: Positive = 16
    """answers per step; not tuned"""
    learning_rate: _AboveZero = 1e-2
    """AdamW without weight decay, falling linearly to zero; at a third of it, 300 steps of straight_through
    left rates undecided, and sampled ones cost far more than the most probable ones"""
    ranking_learning_rate: _AboveZero = 3e-3
    """of a learned ranking, likewise"""
    loss: Loss = "cross_entropy"
    """the paper's, on the answers; or distillation, KL(unpruned || pruned)"""
    budget_weight: Annotated[float, Field(ge=0, lt=_BEYOND)] = 0.5
    """lambda, in nats for all visual tokens: the paper names no budget term, but cross-entropy alone has no
    reason to prune; 0.5 leaves near half of the tokens on the testbed"""
    estimator: Estimator = "soft_gradient"
    """training prunes as inference does, with whole masks, and learns from attention under their mixtures;
    the gradients of straight_through make dropping look dearer than it is"""
    temperature_start: Annotated[float, Field(lt=_BEYOND)] = 1.0
    """of Gumbel-Softmax, falling geometrically: first every rate learns"""
    temperature_end: _AboveZero = 0.3
    """then those near the best one"""
    caption_share: _Share = 0.5
    """of the testbed's data: captions have the many decode steps, questions the most scores"""
    longest_answer: Annotated[int, Field(ge=2)] = 128
    """tokens that answers are cut at"""
    validation_examples: Positive = 128
    """held out, for the record and the mean rates"""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.temperature_start < self.temperature_end:
            low, high = self.temperature_start, self.temperature_end
            raise DyrateError(f"temperature_start: {low} is not at least temperature_end, {high}")
        if self.lagged and self.mode == "evict":
            raise DyrateError(f'lagged: {self.lagged} does not go with mode="evict"; leave one out')
        if self.lagged and self.estimator == "scaled_features":
            raise DyrateError(
                f"lagged: {self.lagged} does not go with estimator: scaled_features, which spares no layer"
            )
        self.config(heads=1)
        return self

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> Self:
        """Return the recipe with these values; a `DyrateError` has a line per mistake, with its key."""
        try:
            return cls.of(values)
        except DyrateError as error:
            raise DyrateError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None

    @classmethod
    def reasons(cls) -> dict[str, str]:
        """Return why each field has the default that it has."""
        return {name: " ".join(str(field.description).split()) for name, field in cls.model_fields.items()}

    def config(self, heads: int) -> PredictorConfig:
        """Return the shape of the predictor for a model with so many query heads."""
        names = [entry.name for entry in fields(PredictorConfig) if entry.name != "heads"]
        return PredictorConfig(heads=heads, **{name: getattr(self, name) for name in names})

    @property
    def learns_ranking(self) -> bool:
        """Whether rankers are trained."""
        return self.ranking != "attention"

    def temperature(self, step: int) -> float:
        """Return Gumbel-Softmax's temperature at a step, counted from 0, of the rate predictor."""
        done = step / max(self.steps - 1, 1)
        start, end = math.log(self.temperature_start), math.log(self.temperature_end)
        return math.exp(start + (end - start) * done)
