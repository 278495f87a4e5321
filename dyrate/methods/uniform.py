"""Control by regularity: tokens at equal distances in raster order."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.methods.prefill_pruning import PrefillPruning
from dyrate.ranking import kept_counts
from dyrate.reduction import PrefillView


@dataclass(frozen=True)
class UniformStride(PrefillPruning):
    """Keep visual tokens at a uniform stride.

    On entering layer K, n = round((1 - R) V) visual tokens of each row stay: those of index j with (j n) mod
    V < n.
    """

    name: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Uniform stride"
    examples = ({"layer": 0, "rate": 0.7}, {"layer": 3, "rate": 0.4})
    keeps_everything = ({"layer": 1, "rate": 0.0},)

    def score(self, view: PrefillView) -> Tensor:
        """Give every (V / n)-th token a 1."""
        total = view.visual_tokens[:, None]
        count = kept_counts(view.visual_tokens, self.rate_at(view))[:, None]
        index = torch.arange(view.present.shape[1], device=total.device)
        return ((index * count) % total.clamp_min(1) < count).float()
