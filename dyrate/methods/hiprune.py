"""HiPrune: what is looked at halfway through the vision tower, with its neighbours, and near its end."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor

from dyrate.methods.budget import RateOrBudget
from dyrate.methods.images import Choice, Images, finite, reduced
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions, TowerPlace
from dyrate.ranking import kept_counts, top
from dyrate.reduction import Kept, Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class HiPrune(RateOrBudget):
    """Keep anchor, buffer and register tokens of each picture, T = round((1 - R) P) of its P tokens.

    On entering layer 0, in the image's order, at positions without gaps:

    1. Anchors: the round(T alpha / 5) tokens that receive the most attention in an object layer of the
       tower, averaged over heads and over queries, the class token's among them.
    2. Buffers: the tokens before and behind an anchor in raster order, and those a row above and below it.
    3. Registers: of the others, those that receive the most attention in the layer that the projector reads
       (LLaVA-1.5: the second-last), up to T.

    So does the official code (Danielement321/HiPrune, `LLaVA/llava/model/llava_arch.py`, `encode_images`).
    Its neighbours go by index: that of an anchor at the edge of the grid is at the other edge, a row off,
    and what lies outside the image becomes its first or last token. The paper speaks of tokens that are
    adjacent in the image, which is `wrap=False`. Differences: the code is given T, and divides it by the
    images of the whole batch; it fails where anchors and buffers are more than T, of which here those T stay
    that receive the most attention in the object layer. That layer, the 9th of CLIP's 24, is a share of the
    tower's depth here; halves go to the even number. A picture is an image or a tile, of which P tokens are
    left after unpadding, and newlines stay; the code's LLaVA-NeXT chooses before unpadding. Its Qwen2.5-VL
    has the 16th layer of 32, `object_layer` 0.5, and the last for registers, as here.
    """

    name: ClassVar[str] = "hiprune"
    title: ClassVar[str] = "HiPrune"
    paper: ClassVar[str] = "arXiv:2508.00553"
    examples = (
        {"rate": 0.5, "alpha": 0.9},
        {"rate": 0.3, "alpha": 0.8, "wrap": False, "object_layer": 1.0},
        {"rate": 0.6, "alpha": 1.0},
    )
    keeps_everything = ({"rate": 0.0},)

    alpha: float = hyperparameter(
        "share of the tokens kept that is for anchors and buffers", default=0.1, minimum=0, maximum=1
    )
    object_layer: float = hyperparameter(
        "layer of the anchors, counted from 1, as a share of the tower's depth",
        default=0.375,
        minimum=0,
        maximum=1,
    )
    wrap: bool = hyperparameter(
        "whether neighbours go by index (the code) or must be adjacent in the image (the paper)", default=True
    )

    positions: str = positions_of("contiguous", "what is left")

    def needs(self, depth: int) -> Needs:
        """The attention that tokens receive in two layers of the tower."""
        return Needs(
            prefill=(0,),
            tower={self.object_layer: ("received_attention",), "projected": ("received_attention",)},
            positions=cast(Positions, self.positions),
        )

    def prefill(self, view: PrefillView) -> Tensor | Kept:
        """Read both layers."""
        layers: dict[str, TowerPlace] = {
            "the object layer": self.object_layer,
            "the projected layer": "projected",
        }
        middle, deep = (
            finite(view, f"attention received in {name}", view.tower(at).received_attention.mean(dim=1))
            for name, at in layers.items()
        )
        return reduced(view, partial(self._of_size, middle=middle, deep=deep))

    def _of_size(self, images: Images, middle: Tensor, deep: Tensor) -> Choice:
        """Choose the three kinds one after the other."""
        middle, deep = images.split(middle), images.split(deep)
        budget = int(kept_counts(torch.tensor(images.size), self.rate_at(images.view)))
        anchors = top(middle, torch.full_like(middle[:, 0], round(budget * self.alpha / 5)))
        near = top(middle, torch.full_like(middle[:, 0], budget), self._with_neighbours(anchors, images))
        registers = top(deep, budget - near.sum(dim=1), ~near)
        return Choice(near | registers)

    def _with_neighbours(self, anchors: Tensor, images: Images) -> Tensor:
        """BoolTensor [N, P]: anchors and buffers."""
        _, row, column = images.split(images.view.grid).unbind(dim=-1)
        row, column = (place - place.amin(dim=1, keepdim=True) for place in (row, column))
        rows, columns = (place.amax(dim=1, keepdim=True) + 1 for place in (row, column))
        index = torch.arange(images.size, device=anchors.device)
        found = torch.zeros_like(index).expand_as(anchors).contiguous()
        for down, right in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)):
            there = (index + down * columns + right).clamp(0, images.size - 1)
            below, beside = row + down, column + right
            inside = (below >= 0) & (below < rows) & (beside >= 0) & (beside < columns)
            found.scatter_add_(1, there, (anchors & (inside | self.wrap)).long())
        return found > 0
