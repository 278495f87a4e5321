"""VisionZip: keep the class token and what it looks at, and merge the rest into a few tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from dyrate.methods.budget import budget_of
from dyrate.methods.images import Images
from dyrate.ranking import top
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class VisionZip(ReductionMethod):
    """Keep D dominant tokens of each image, and C contextual ones that the others are merged into.

    On entering layer 0, at positions without gaps. All is taken from the second-last layer of the vision
    tower.

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

    def numbers(self, size: int) -> tuple[int, int]:
        """Return D and C for images of `size` tokens: with a budget as 54 to 10, which all published are."""
        if self.budget is None:
            return self.dominant, self.contextual
        tokens = round(self.budget * size)
        contextual = max(1, round(tokens * 10 / 64))
        return max(1, tokens - contextual), contextual

    def needs(self, depth: int) -> Needs:
        """Three things of one layer of the tower, the class token's state among them."""
        return Needs(prefill=(0,), tower={-2: ("class_attention", "keys", "states")}, positions="contiguous")

    def prefill(self, view: PrefillView) -> Tensor | Kept:
        """Choose, merge, and project what was merged."""
        images, tower = Images.of(view), view.tower(-2)
        dominant_tokens, contextual_tokens = self.numbers(images.size)
        patches = dominant_tokens - 1
        if patches + contextual_tokens >= images.size:
            return view.present
        attention = images.scores("class attention", tower.class_attention.sum(dim=1))
        dominant = top(attention, torch.full_like(attention[:, 0], patches))
        rest = dominant.to(torch.uint8).argsort(dim=1, stable=True)[:, : images.size - patches]
        stride = rest.shape[1] // contextual_tokens
        targets = rest[:, ::stride][:, :contextual_tokens]
        contextual = torch.zeros_like(dominant).scatter(1, targets, True)
        leaves = ~(dominant | contextual)

        keys = normalize(images.split(tower.keys.mean(dim=2)).float(), dim=-1)
        alike = keys @ torch.take_along_dim(keys, targets[..., None], dim=1).transpose(1, 2)
        home = alike.argmax(dim=2)
        states = images.split(tower.states).float()
        sent = (one_hot(home, contextual_tokens) * leaves[..., None]).float().transpose(1, 2)
        mean = sent @ states / sent.sum(dim=2, keepdim=True).clamp_min(1)
        merged = torch.take_along_dim(states, targets[..., None], dim=1) + mean
        view.count_macs(alike.numel() * (keys.shape[-1] + states.shape[-1]))

        # The class token first, in the place of a patch that leaves.
        seat = attention.masked_fill(~leaves, -1).argmax(dim=1, keepdim=True)
        new = torch.cat([images.by_image(tower.class_states)[:, None], merged.to(tower.states.dtype)], dim=1)
        places = torch.cat([seat, targets], dim=1)
        projected = images.split(view.states).clone()
        projected[torch.arange(len(places), device=places.device)[:, None], places] = view.project(new)
        index = torch.arange(images.size, device=places.device).expand_as(home)
        order = (index + images.size * contextual).scatter(1, seat, -1).argsort(dim=1).argsort(dim=1)
        into = torch.where(leaves, targets.gather(1, home), index)
        return Kept(
            images.join((dominant | contextual).scatter(1, seat, True)),
            images.join(projected),
            images.join_numbers(into).masked_fill(~view.valid, -1),
            images.join_numbers(order),
        )
