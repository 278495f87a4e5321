"""Control by chance: a method must beat a random choice of as many tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.methods.prefill_pruning import PrefillPruning
from dyrate.reduction import PrefillView, hyperparameter


@dataclass(frozen=True)
class RandomTokens(PrefillPruning):
    """Keep a random choice of visual tokens, uniform over all choices of their number.

    On entering layer K, round((1 - R) V) visual tokens of each row stay. The choice depends on the seed and
    on the row's own tokens and pixels: it is the same in every batch and on every device, and another for
    every image.
    """

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random"
    examples = ({"layer": 2, "rate": 0.6, "seed": 1}, {"layer": 0, "rate": 0.3})
    keeps_everything = ({"layer": 0, "rate": 0.0},)

    seed: int = hyperparameter("seed of the choice", default=0, minimum=0)

    def score(self, view: PrefillView) -> Tensor:
        """Draw a number for each token."""
        draws = torch.full(view.present.shape, float("-inf"), dtype=torch.float64)
        counts = view.visual_tokens.tolist()
        for row, (seed, count) in enumerate(zip(view.row_seeds(self.seed), counts, strict=True)):
            generator = torch.Generator().manual_seed(seed)
            draws[row, :count] = torch.rand(count, generator=generator, dtype=torch.float64)
        return draws.to(view.present.device)
