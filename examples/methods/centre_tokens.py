"""A baseline in one file: only the visual tokens nearest their image's centre go on from layer K."""

from dataclasses import dataclass

from torch import Tensor

from dyrate import PrefillPruning, PrefillView


@dataclass(frozen=True)
class CentreTokens(PrefillPruning):
    """People point the camera at what matters, so the margin may leave first."""

    title = "Centre tokens"

    def score(self, view: PrefillView) -> Tensor:
        """Minus the squared distance from the middle of the image's grid."""
        places = view.grid[..., 1:].double()
        middle = places.amax(dim=1, keepdim=True) / 2
        return -((places - middle) ** 2).sum(dim=-1)
