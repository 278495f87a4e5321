"""Rates given step by step: what a data-dependent method chose elsewhere, run where its predictor cannot."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.methods.stepwise_pruning import StepwisePruning, scheduled
from dyrate.reduction import View, hyperparameter


@dataclass(frozen=True)
class Replay(StepwisePruning):
    """Drop the share R_t of the visual tokens at step t, whatever the input.

    For measuring time and memory on models of random weights, whose own attention would choose rates that
    mean nothing: the rates are those that a predictor chose on average in a study, and results must say so.
    """

    name: ClassVar[str] = "replay"
    title: ClassVar[str] = "Replayed rates"
    examples = (
        {"rates": [0.25, 0.5, 0.75, 0.4]},
        {"rates": [0.25, 0.5, 0.4], "layer": 3, "mode": "evict", "prune_prefill": False},
    )
    keeps_everything = ({"rates": [0.0]},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=1
    )
    _: KW_ONLY
    rates: tuple[float, ...] = hyperparameter(
        "R_0, R_1, ...; the last one holds for all later steps", label=lambda rates: f"{len(rates)} steps"
    )

    def __post_init__(self) -> None:
        """Check the rates."""
        super().__post_init__()
        wrong = [rate for rate in self.rates if type(rate) not in (int, float) or not 0 <= rate <= 1]
        if wrong or not self.rates:
            raise DyrateError(
                f"Replay(rates={self.rates!r:.80}): expected at least one number, each from 0 to 1"
            )

    def step_rates(self, view: View) -> Tensor:
        """R_t."""
        return scheduled(self.rates, view)
