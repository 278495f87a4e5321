"""DepthBasedPrune, the paper's ablation DP: everything up to a depth, a fixed share below it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.methods.stepwise_pruning import StepwisePruning
from dyrate.reduction import View, hyperparameter
from dyrate.typed import Origin


@dataclass(frozen=True)
class DepthBasedPrune(StepwisePruning):
    """Keep the share C_retain = 1 - H(L - 4) (P + R') of the visual tokens in layer L.

    The paper's ablation "DP". H is the Heaviside step with H(0) = 0: layers L <= 4 keep all, those from the
    fifth on 1 - P - R'. L counts from 1 ("the first 4 layers"), so the prune layer, counted from 0, is K = 4,
    and tokens are ranked by the attention of the fourth layer, as "P_prune4th" suggests. P is that layer's
    rate and R' its correction, which the paper leaves open; only their sum matters. Our defaults, 0.5 and 0,
    are FastV's rate, because the paper prints nearly FastV's FLOPs for DP (58.1% and 57.9%). As in FixedPrune
    it is without `prune_prefill` that decode steps choose.
    """

    name: ClassVar[str] = "depth_prune"
    title: ClassVar[str] = "DepthBasedPrune"
    examples = (
        {"layer": 3, "rate": 0.4, "correction": 0.3},
        {"rate": 0.7, "correction": -0.2, "prune_prefill": False},
    )
    keeps_everything = ({"rate": 0.0},)

    layer: int = hyperparameter(
        "number of first layers that keep everything, which is also the prune layer K", default=4, minimum=1
    )
    rate: float = hyperparameter(
        "share P of the visual tokens that deeper layers drop", default=0.5, minimum=0, maximum=1
    )
    correction: float = hyperparameter("R', added to the rate", default=0.0, minimum=-1, maximum=1)

    @property
    def origin(self) -> Origin:
        """The paper's."""
        return "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate + self.correction <= 1:
            raise DyrateError(
                f"DepthBasedPrune(rate={self.rate}, correction={self.correction}): expected a sum from 0 to 1"
            )

    def step_rates(self, view: View) -> Tensor:
        """P + R'."""
        return torch.full_like(view.visual_tokens, self.rate + self.correction, dtype=torch.float64)
