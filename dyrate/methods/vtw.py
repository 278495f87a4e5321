"""VTW: withdraw all visual tokens in the deeper layers."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from dyrate.methods.budget import below, budget_of
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.reduction import Needs, PrefillView, ReductionMethod, hyperparameter

_THIRD = 0.01
"""Of a layer: so that 0.333 of 12 layers are 4."""


@dataclass(frozen=True)
class VTW(ReductionMethod):
    """Withdraw all visual tokens on entering layer K.

    Text keeps its positions by default; the official code (lzhxmu/VTW, `pe_type`) also has a mode that
    numbers it without gaps. It finds K by a search: `dyrate search-vtw` (arXiv:2405.05803, section 3.3).
    """

    name: ClassVar[str] = "vtw"
    title: ClassVar[str] = "VTW"
    paper: ClassVar[str] = "arXiv:2405.05803"
    examples = ({"layer": 3}, {"layer": 3, "positions": "contiguous"})

    layer: int = hyperparameter("prune layer K: the first layer without visual tokens", default=15, minimum=1)
    budget: float | None = budget_of("layer")
    positions: str = positions_of("original", "text from layer K on")

    def needs(self, depth: int) -> Needs:
        """To be asked at layer K: with a budget, the deepest before which layers have no more than it."""
        layer = self.layer if self.budget is None else int(self.budget * depth + _THIRD)
        if not layer:
            raise below(self, 1 / depth)
        return Needs(prefill=(layer,), positions=cast(Positions, self.positions))

    def prefill(self, view: PrefillView) -> Tensor:
        """Keep no visual token."""
        return torch.zeros_like(view.present)
