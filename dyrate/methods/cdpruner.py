"""CDPruner: tokens that matter to the question and are unlike each other, by a determinantal process."""

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
from dyrate.reduction import Kept, Needs, PrefillView

_LEAST = 1e-6
"""Stands in the official code for the relevance of the least relevant token."""


@dataclass(frozen=True)
class CDPruner(RateOrBudget):
    """Keep round((1 - R) N) of each image's N tokens, on entering layer 0, at positions without gaps.

    1. Relevance: the cosine of a patch and the question in CLIP's common space (the layer of the tower that
       the projector reads, its last norm, CLIP's visual projection; the question by CLIP's text tower), with
       the sign turned, as CLIP's patches are the less like a text the more they show of it; min-max
       normalised.
    2. The kernel of a determinantal point process: relevance of i x cosine of the projected features of i and
       j x relevance of j.
    3. Greedy MAP inference: again and again the token that adds most to the determinant.

    So does the official code (Theia-4869/CDPruner, `llava_arch.py` and `clip_encoder.py`), which is given the
    number of tokens. It differs so: it normalises relevance over the whole batch, and takes its mean over all
    questions of a batch, so that batches of more than one row are coupled; here each image is by itself.
    It strips "Answer the question using a single word or phrase." from the question, which stays here. It
    cuts a question of more than 77 tokens without regard to where texts begin and end, and averages cosines
    with the parts; here parts are texts of their own, and their features are averaged. A token that adds
    nothing to the determinant would make NaN of what is left there, and is chosen last here. The checkpoint
    must have CLIP's other half in `clip/`.
    """

    name: ClassVar[str] = "cdpruner"
    title: ClassVar[str] = "CDPruner"
    paper: ClassVar[str] = "arXiv:2506.10967"
    examples = ({"rate": 0.5}, {"rate": 0.75})
    keeps_everything = ({"rate": 0.0},)

    positions: str = positions_of("contiguous", "what is left")

    def needs(self, depth: int) -> Needs:
        """The question, and one layer of the tower."""
        return Needs(
            prefill=(0,),
            tower={"projected": ("states",)},
            question=True,
            positions=cast(Positions, self.positions),
        )

    def prefill(self, view: PrefillView) -> Tensor | Kept:
        """Compare all patches with the question."""
        patches, question = (
            normalize(view.tower("projected").embeds, dim=-1),
            normalize(view.question_features, dim=-1),
        )
        relevance = finite(view, "relevance", -(patches @ question[:, :, None].to(patches)).squeeze(-1))
        view.count_macs(int(view.visual_counts.sum()) * patches.shape[-1])
        return reduced(view, partial(self._of_size, relevance=relevance))

    def _of_size(self, images: Images, relevance: Tensor) -> Choice:
        """Choose for all images of a size at once."""
        kernel = self._kernel(images, images.split(relevance))
        count = int(kept_counts(torch.tensor([images.size]), self.rate_at(images.view)))
        # Once more through the factors of all chosen before, for each one chosen.
        images.view.count_macs(images.index.numel() * count * (count - 1) // 2)
        return Choice(greedy_map(kernel, count))

    def _kernel(self, images: Images, relevance: Tensor) -> Tensor:
        """FloatTensor [N, P, P]: N images of P tokens."""
        low, high = (end(relevance, dim=-1, keepdim=True) for end in (torch.amin, torch.amax))
        relevance = (relevance - low + _LEAST) / (high - low).clamp_min(_LEAST)
        features = normalize(images.split(images.view.states).float(), dim=-1)
        images.view.count_macs(features.numel() * images.size)
        return relevance[..., :, None] * (features @ features.transpose(-1, -2)) * relevance[..., None, :]


def greedy_map(kernel: Tensor, count: int) -> Tensor:
    """BoolTensor [..., N]: `count` items of a determinantal point process with the kernel [..., N, N].

    Of items that add as much, the one of the lower index comes first.
    """
    # What an item would add: its squared length, less what those chosen explain of it.
    gains = kernel.diagonal(dim1=-2, dim2=-1).clone()
    factors = kernel.new_zeros(*gains.shape[:-1], count, gains.shape[-1])
    for step in range(count):
        best = gains.argmax(dim=-1, keepdim=True)
        gain, before = gains.gather(-1, best), factors[..., :step, :]
        known = before.gather(-1, best[..., None, :].expand(*before.shape[:-1], 1))
        explained = (known.transpose(-1, -2) @ before).squeeze(-2)
        row = kernel.gather(-2, best[..., None].expand(*gains.shape[:-1], 1, gains.shape[-1])).squeeze(-2)
        factor = (row - explained) / gain.sqrt()
        factor = torch.where(gain > 0, factor, 0)
        factors[..., step, :] = factor
        gains = (gains - factor**2).scatter(-1, best, -torch.inf)
    return gains == -torch.inf
