"""VisPruner: what the class token looks at, and of the rest what is least alike."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate.methods.budget import RateOrBudget
from dyrate.methods.images import Choice, Images, finite, reduced
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.ranking import kept_counts
from dyrate.reduction import Kept, Needs, PrefillView, hyperparameter

_AT_ONCE = 8
"""Tokens that leave together."""


@dataclass(frozen=True)
class VisPruner(RateOrBudget):
    """Keep important and diverse tokens of each picture, T = round((1 - R) P) of its P tokens.

    On entering layer 0, in the image's order, at positions without gaps. All is taken from the layer of the
    vision tower that the projector reads (LLaVA-1.5: the second-last). A picture is an image or a tile, of
    which P tokens are left after unpadding, and newlines stay.

    1. Important: the int(r T) tokens that the class token attends to most, averaged over heads.
    2. Diverse: the others stand in a list, the most attended first. Every second one, from the first on, is
       compared by cosine with all of those between, and the 8 that are most like one of these leave. The
       list goes on with the rest of the former, the most alike first, then the latter, until T - int(r T)
       are left.

    So does the official code (Theia-4869/VisPruner, `llava/model/llava_arch.py`, `encode_images`), which is
    given T. It fails where the list has an odd number of tokens (an odd number of important ones at 576), and
    where fewer than 8 are compared (T - int(r T) < 8); here the list may be odd, and at most all that are
    compared leave. A tower without class token has the attention that patches receive. In both, a list that
    nearly equal cosines order another way is thinned out another way: rounding errors, as those of another
    dtype or batch, can change a few of the diverse tokens.
    """

    name: ClassVar[str] = "vispruner"
    title: ClassVar[str] = "VisPruner"
    paper: ClassVar[str] = "arXiv:2412.01818"
    examples = ({"rate": 0.6}, {"rate": 0.8, "important": 0.4}, {"rate": 0.25, "important": 0.0})
    keeps_everything = ({"rate": 0.0},)

    important: float = hyperparameter(
        "share r of the tokens kept that is for important ones", default=0.5, minimum=0, maximum=1
    )

    positions: str = positions_of("contiguous", "what is left")

    def needs(self, depth: int) -> Needs:
        """The class token's attention and the states of one layer of the tower."""
        return Needs(
            prefill=(0,),
            tower={"projected": ("salience", "states")},
            positions=cast(Positions, self.positions),
        )

    def prefill(self, view: PrefillView) -> Tensor | Kept:
        """Read the tower."""
        tower = view.tower("projected")
        attention = finite(view, "attention", tower.salience.mean(dim=1))
        return reduced(view, partial(self._of_size, attention=attention, states=tower.states))

    def _of_size(self, images: Images, attention: Tensor, states: Tensor) -> Choice:
        """Take the important ones, and thin out the rest."""
        view, attention = images.view, images.split(attention)
        budget = int(kept_counts(torch.tensor(images.size), self.rate_at(view)))
        important = int(budget * self.important)
        order = attention.argsort(dim=1, descending=True, stable=True)
        diverse = self._distinct(order[:, important:], images.split(states), budget - important, view)
        keep = torch.zeros_like(attention, dtype=torch.bool)
        return Choice(keep.scatter(1, torch.cat([order[:, :important], diverse], dim=1), True))

    def _distinct(self, listed: Tensor, states: Tensor, count: int, view: PrefillView) -> Tensor:
        """LongTensor [N, count]: of the tokens listed those that are left in the end."""
        if count in (0, listed.shape[1]):
            return listed[:, :count]
        states = normalize(states.float(), dim=-1)
        alike = states @ states.transpose(1, 2)
        view.count_macs(alike.numel() * states.shape[-1])
        number = torch.arange(len(listed), device=listed.device)[:, None]
        while listed.shape[1] > count:
            compared, others = listed[:, ::2], listed[:, 1::2]
            leave = min(_AT_ONCE, listed.shape[1] - count, compared.shape[1])
            closest = alike[number[:, :, None], compared[:, :, None], others[:, None]].amax(dim=2)
            stay = closest.argsort(dim=1, descending=True, stable=True)[:, leave:]
            listed = torch.cat([compared[number, stay], others], dim=1)
        return listed
