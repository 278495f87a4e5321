"""Control by regularity: tokens at equal distances in raster order."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.ranking import kept_counts
from dyrate.reduction import ReductionMethod, View, hyperparameter


@dataclass(frozen=True)
class UniformStride(ReductionMethod):
    """Keep visual tokens at a uniform stride.

    On entering layer K, n = round((1 - R) V) visual tokens of each row stay: those of index j with (j n) mod
    V < n.
    """

    name: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Uniform stride"

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=0
    )
    rate: float = hyperparameter(
        "share R of the visual tokens that is dropped", default=0.5, minimum=0, maximum=1
    )

    def prune_layers(self, num_layers: int) -> tuple[int, ...]:
        """Layer K."""
        return (self.layer,)

    def prefill(self, view: View) -> Tensor:
        """Keep every (V / n)-th token."""
        total = view.visual_tokens[:, None]
        count = kept_counts(view.visual_tokens, self.rate)[:, None]
        index = torch.arange(view.present.shape[1], device=total.device)
        return view.valid & ((index * count) % total.clamp_min(1) < count)
