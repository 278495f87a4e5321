"""VisionZip: keep the class token and what it looks at, and merge the rest into a few tokens."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from dyrate.methods.budget import budget_of
from dyrate.methods.images import Choice, Images, finite, reduced
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.ranking import top
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod, hyperparameter
from dyrate.tower_layer import TowerLayer


@dataclass(frozen=True)
class VisionZip(ReductionMethod):
    """Keep D dominant tokens of each picture, and C contextual ones that the others are merged into.

    On entering layer 0, at positions without gaps. All is taken from the layer of the vision tower that the
    projector reads (LLaVA-1.5: the second-last).

    1. Dominant: the class token itself, which stands first, then the D - 1 patches that it attends to most,
       by the sum over heads, in the image's order.
    2. Contextual: of the R patches that are left, every max(1, R // C)-th from the first on, C in all, in
       the image's order. Each other patch goes to the one whose key, averaged over heads, is most like its
       own by cosine. To the state of a contextual token the mean of those that came to it is added.
    3. The connector projects the states after that.

    So does the official code (dvlab-research/VisionZip, `visionzip/clip_encoder.py`); its function default is
    D=191, C=30, its README has 54 and 10, the paper's larger budgets 108 and 20, 162 and 30. Differences: a
    checkpoint of transformers has no place for the class token, so it takes that of a patch that leaves, of
    these the one that it attends to most; an image whose patches would all stay, D - 1 + C of them or fewer,
    is left as it is, without the class token. The code fails for lists of images.

    A picture is an image or a tile: D and C are per tile, of what unpadding left of it, and newlines stay. A
    tower without class token has, as in the official Qwen2.5-VL, the attention that patches receive, and D
    patches; there the attention and keys of a token are the mean of its patches', and contextual tokens are
    merged behind the projector. So are InternVL's, whose class token has no token of its own.
    """

    name: ClassVar[str] = "visionzip"
    title: ClassVar[str] = "VisionZip"
    paper: ClassVar[str] = "arXiv:2412.04467"
    examples = ({"dominant": 5, "contextual": 3}, {"dominant": 1, "contextual": 1})
    keeps_everything = ({"dominant": 10_000, "contextual": 1}, {"dominant": 11, "contextual": 6})

    dominant: int = hyperparameter(
        "tokens D of each image that stay as they are, the class token included",
        default=54,
        minimum=1,
        label=lambda dominant: f"D={dominant}",
    )
    contextual: int = hyperparameter(
        "tokens C of each image that others are merged into",
        default=10,
        minimum=1,
        label=lambda contextual: f"C={contextual}",
    )
    budget: float | None = budget_of("dominant", "contextual")
    positions: str = positions_of("contiguous", "what is left")

    def numbers(self, size: int) -> tuple[int, int]:
        """Return D and C for images of `size` tokens: with a budget as 54 to 10, which all published are."""
        if self.budget is None:
            return self.dominant, self.contextual
        tokens = round(self.budget * size)
        contextual = max(1, round(tokens * 10 / 64))
        return max(1, tokens - contextual), contextual

    def needs(self, depth: int) -> Needs:
        """Three things of one layer of the tower, the class token's state among them."""
        return Needs(
            prefill=(0,),
            tower={"projected": ("salience", "keys", "states")},
            positions=cast(Positions, self.positions),
        )

    def prefill(self, view: PrefillView) -> Tensor | Kept:
        """Read the tower."""
        tower = view.tower("projected")
        attention = finite(view, "attention", tower.salience.sum(dim=1))
        return reduced(view, partial(self._of_size, tower, attention, tower.keys.mean(dim=2)))

    def _of_size(self, tower: TowerLayer, attention: Tensor, keys: Tensor, images: Images) -> Choice:
        """Choose, merge, and project what was merged."""
        view, attention = images.view, images.split(attention)
        patches, contextual_tokens = self.numbers(images.size)
        patches -= tower.class_token
        if patches + contextual_tokens >= images.size:
            return Choice(torch.ones_like(attention, dtype=torch.bool))
        dominant = top(attention, torch.full_like(attention[:, 0], patches))
        rest = dominant.to(torch.uint8).argsort(dim=1, stable=True)[:, : images.size - patches]
        stride = rest.shape[1] // contextual_tokens
        targets = rest[:, ::stride][:, :contextual_tokens]
        contextual = torch.zeros_like(dominant).scatter(1, targets, True)
        leaves = ~(dominant | contextual)

        keys = normalize(images.split(keys).float(), dim=-1)
        alike = keys @ torch.take_along_dim(keys, targets[..., None], dim=1).transpose(1, 2)
        home = alike.argmax(dim=2)
        # What is merged: states of the tower, which the projector has yet to see, or what it made of several.
        states = images.split(tower.states if tower.patches == 1 else view.states)
        sent = (one_hot(home, contextual_tokens) * leaves[..., None]).float().transpose(1, 2)
        mean = sent @ states.float() / sent.sum(dim=2, keepdim=True).clamp_min(1)
        merged = torch.take_along_dim(states.float(), targets[..., None], dim=1) + mean
        new, places, keep = merged.to(states.dtype), targets, dominant | contextual
        view.count_macs(alike.numel() * (keys.shape[-1] + states.shape[-1]))

        index = torch.arange(images.size, device=places.device).expand_as(home)
        order = index + images.size * contextual
        if tower.class_token:  # first, in the place of a patch that leaves
            seat = attention.masked_fill(~leaves, -1).argmax(dim=1, keepdim=True)
            new = torch.cat([images.by_picture(tower.class_states)[:, None], new], dim=1)
            places, keep = torch.cat([seat, targets], dim=1), keep.scatter(1, seat, True)
            order = order.scatter(1, seat, -1)
        projected = images.split(view.states)
        projected[torch.arange(len(places), device=places.device)[:, None], places] = (
            view.project(new) if tower.patches == 1 else new
        )
        return Choice(
            keep=keep,
            states=projected,
            into=torch.where(leaves, targets.gather(1, home), index),
            order=order if self.positions == "contiguous" else None,
        )
