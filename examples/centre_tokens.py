"""A baseline in one file: only the visual tokens nearest the image's centre go on from layer K."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.ranking import kept_counts, top
from dyrate.reduction import ReductionMethod, View, hyperparameter


@dataclass(frozen=True)
class CentreTokens(ReductionMethod):
    """People point the camera at what matters, so the margin may leave first."""

    title = "Centre tokens"

    layer: int = hyperparameter("prune layer K: the first layer without the margin", default=2, minimum=0)
    rate: float = hyperparameter("share R of the tokens that leaves", default=0.5, minimum=0, maximum=1)

    def prune_layers(self, num_layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def prefill(self, view: View) -> Tensor:
        side = view.visual_tokens.sqrt()[:, None]  # the tokens of a row are a square in raster order
        if (side != side.round()).any():
            found = view.visual_tokens.tolist()
            raise DyrateError(f"CentreTokens needs one square image per row, not {found} visual tokens")
        index = torch.arange(view.present.shape[1], device=side.device)
        row, column = index // side, index % side
        distance = (row - (side - 1) / 2) ** 2 + (column - (side - 1) / 2) ** 2
        nearest = (-distance).masked_fill(~view.present, float("-inf"))
        return top(nearest, kept_counts(view.visual_tokens, self.rate))
