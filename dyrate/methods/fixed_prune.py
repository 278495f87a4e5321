"""FixedPrune, the paper's ablation FP: DyRate's pruning at every step, with one rate for all of them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.methods.stepwise_pruning import StepwisePruning
from dyrate.reduction import View, hyperparameter
from dyrate.typed import Origin


@dataclass(frozen=True)
class FixedPrune(StepwisePruning):
    """Keep the share C_retain = 1 - R of the visual tokens at every step.

    The paper's ablation "FP", with its K = 3; the rate is not stated. Tokens dropped at prefill are gone, and
    a constant rate finds no more to drop: with `prune_prefill` this is FastV. Without, the whole image is
    read, and each decode step chooses (`select`), or the first one decides (`evict`).
    """

    name: ClassVar[str] = "fixed_prune"
    title: ClassVar[str] = "FixedPrune"
    examples = (
        {},
        {"layer": 2, "rate": 0.6, "mode": "evict", "prune_prefill": False},
        {"layer": 1, "rate": 0.8, "minimum": 0.3, "prune_prefill": False},
    )
    keeps_everything = ({"rate": 0.0, "mode": "evict"},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=3, minimum=1
    )
    rate: float = hyperparameter(
        "share R of the visual tokens that is dropped", default=0.5, minimum=0, maximum=1
    )

    @property
    def origin(self) -> Origin:
        """The paper's."""
        return "paper"

    def step_rates(self, view: View) -> Tensor:
        """R."""
        return torch.full_like(view.visual_tokens, self.rate, dtype=torch.float64)
