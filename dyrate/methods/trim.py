"""TRIM: the tokens that CLIP's metric sets apart for the question, and one token for all the rest."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate.methods.budget import budget_of
from dyrate.methods.images import Choice, Images, finite, reduced
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.ranking import top
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class TRIM(ReductionMethod):
    """Keep the outliers of each image, on entering layer 0, and behind them the mean of its other tokens.

    1. Similarity of a patch and the question in CLIP's common space (the layer of the tower that the
       projector reads, its last norm, CLIP's visual projection; the question by CLIP's text tower).
    2. Its softmax over the image's tokens is their score; those above Q3 + 1.5 (Q3 - Q1) stay, or, with a
       `rate`, the floor((1 - R) N) best.
    3. The features that the tower made of the others are averaged, projected, and stand behind those that
       stay, at positions without gaps.

    So does the official code (FreedomIntelligence/TRIM, `clip_encoder.py`). There the similarity is the
    negative of the plain product: the tokens that are least like the question stay. The paper's is the cosine
    (by summaries of it; the text itself was not read), which is the option `cosine`. Differences: the code
    finds one number of outliers for a whole batch, here each image has its own; it cuts a question off after
    77 tokens, here the features of its parts are averaged; it fails where a rate leaves no token to average,
    here none is added then. Without an outlier only the mean stays, there as here. The checkpoint must have
    CLIP's other half in `clip/`. The paper's main rows are of models fine-tuned with it.
    """

    name: ClassVar[str] = "trim"
    title: ClassVar[str] = "TRIM"
    paper: ClassVar[str] = "arXiv:2409.10994"
    examples = ({}, {"rate": 0.7}, {"similarity": "cosine", "spread": 0.5})
    keeps_everything = ({"rate": 0.0},)

    rate: float | None = hyperparameter(
        "share R of an image's tokens that is merged into one; null: all but the outliers",
        default=None,
        minimum=0,
        maximum=1,
        label=lambda rate: "adaptive" if rate is None else f"R={rate}",
    )
    budget: float | None = budget_of("rate")
    similarity: str = hyperparameter(
        "`product`, negated, as in the official code, or `cosine`",
        default="product",
        choices=("product", "cosine"),
    )
    spread: float = hyperparameter(
        "interquartile ranges above the third quartile where outliers begin", default=1.5, minimum=0
    )

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
        tower = view.tower("projected")
        similarity = finite(view, "scores", self._similarity(view, tower.embeds))
        return reduced(view, partial(self._of_size, similarity=similarity, tower=tower.states))

    def _of_size(self, images: Images, similarity: Tensor, tower: Tensor) -> Choice:
        """Choose, and put the mean of what goes into the place of the last token that goes."""
        view = images.view
        scores = images.split(similarity).softmax(dim=-1)
        gone = ~self._kept(scores)
        index = torch.arange(images.size, device=gone.device).expand_as(gone)
        home = (index * gone).amax(dim=1, keepdim=True)
        merged = gone & (index == home)

        weights = gone.float()[:, None] / gone.sum(dim=1)[:, None, None].clamp_min(1)
        mean = weights @ images.split(tower).float()  # [N, 1, width]
        view.count_macs(gone.numel() * mean.shape[-1])
        projected = view.project(mean.to(tower.dtype))
        states = torch.where(merged[..., None], projected, images.split(view.states))
        # Whatever stands for an image's other tokens stands behind those that stay.
        order = torch.where(merged, images.size, index) if self.positions == "contiguous" else None
        return Choice(~gone | merged, states, torch.where(gone, home, index), order)

    def _similarity(self, view: PrefillView, patches: Tensor) -> Tensor:
        """FloatTensor [B, V]."""
        question = view.question_features.to(patches)
        sign = -1
        if self.similarity == "cosine":
            patches, question, sign = normalize(patches, dim=-1), normalize(question, dim=-1), 1
        view.count_macs(int(view.visual_counts.sum()) * patches.shape[-1])
        return sign * (patches @ question[:, :, None]).squeeze(-1)

    def _kept(self, scores: Tensor) -> Tensor:
        """BoolTensor [N, P]: the outliers, or the best."""
        tokens = scores.shape[-1]
        if self.budget is not None:  # which the mean is part of
            count = max(0, round(tokens * self.budget) - (self.budget < 1))
        elif self.rate is not None:
            count = int(tokens * (1 - self.rate))
        else:
            low, high = (scores.quantile(share, dim=-1, keepdim=True) for share in (0.25, 0.75))
            return scores > high + self.spread * (high - low)
        return top(scores, torch.full_like(scores[:, 0], count, dtype=torch.long))
