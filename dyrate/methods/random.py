"""Control by chance: a method must beat a random choice of as many tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.ranking import kept_counts, top
from dyrate.reduction import ReductionMethod, View, hyperparameter


@dataclass(frozen=True)
class RandomTokens(ReductionMethod):
    """Keep a random choice of visual tokens, uniform over all choices of their number.

    On entering layer K, round((1 - R) V) visual tokens of each row stay. The choice depends on the seed and
    on the row's own tokens and pixels: it is the same in every batch and on every device, and another for
    every image.
    """

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random"

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=0
    )
    rate: float = hyperparameter(
        "share R of the visual tokens that is dropped", default=0.5, minimum=0, maximum=1
    )
    seed: int = hyperparameter("seed of the choice", default=0, minimum=0)

    def prune_layers(self, num_layers: int) -> tuple[int, ...]:
        """Layer K."""
        return (self.layer,)

    def prefill(self, view: View) -> Tensor:
        """Keep the tokens that draw the highest numbers."""
        draws = torch.full(view.present.shape, float("-inf"), dtype=torch.float64)
        counts = view.visual_tokens.tolist()
        for row, (seed, count) in enumerate(zip(view.row_seeds(self.seed), counts, strict=True)):
            generator = torch.Generator().manual_seed(seed)
            draws[row, :count] = torch.rand(count, generator=generator, dtype=torch.float64)
        return top(draws.to(view.present.device), kept_counts(view.visual_tokens, self.rate))
