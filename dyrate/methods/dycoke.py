"""DyCoke's decode half: when attention on the image has moved, the deeper layers' tokens are chosen anew."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dyrate.ranking import top
from dyrate.reduction import DecodeView, Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class DyCoke(ReductionMethod):
    """From layer K on, a decode step attends to the floor((1 - R) V) visual tokens with the most attention.

    That is the newest query's at layer K-1, averaged over heads, and it counts where it has moved: where its
    cosine with that of the step before is below `threshold`. The first decode step has none before it, and
    always chooses. The prompt and the KV cache stay whole.

    So does the official code (KD-TAO/DyCoke, `PrunableDynamicCache` in `modeling_qwen2.py`). Where attention
    has not moved, it drops nothing at that step: layers before K forget the choice, and nobody makes a new
    one. That the last choice stands until the next one, as the paper may mean it [inferred: its text was not
    read], is the option `unmoved="last"`. Either way attention is compared with that of the step before, not
    with that which the choice was made by. Differences: the code keeps attention from one prompt to the next,
    so that an answer's first step is compared with another one's last, or fails where sizes differ; here each
    prompt begins anew. It takes one row, whose first image token stands at a constant place. Its other half
    merges tokens of consecutive frames before the language model; images have none. R is 0.7 in the README
    and 0.8 in the code, published for a model of 28 layers.
    """

    name: ClassVar[str] = "dycoke"
    title: ClassVar[str] = "DyCoke (decode)"
    paper: ClassVar[str] = "arXiv:2411.15024"
    examples = (
        {"layer": 2, "rate": 0.6, "threshold": 0.8},
        {"layer": 1, "rate": 0.8, "threshold": 0.7, "unmoved": "last"},
        {"rate": 0.5, "threshold": 1.0},
    )
    keeps_everything = ({"rate": 0.0},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=3, minimum=1
    )
    rate: float = hyperparameter(
        "share R of the visual tokens that is dropped", default=0.7, minimum=0, maximum=1
    )
    threshold: float = hyperparameter(
        "cosine below which attention has moved", default=0.9, minimum=-1, maximum=1
    )
    unmoved: str = hyperparameter(
        "where it has not, a step sees `all` tokens, or those of the `last` choice",
        default="all",
        choices=("all", "last"),
    )

    def needs(self, depth: int) -> Needs:
        """The attention of layer K-1, at every step; at prefill only to begin with nothing."""
        return Needs(
            prefill=(self.layer,), decode=(self.layer,), attention=(self.layer - 1,), capturable=True
        )

    def prefill(self, view: PrefillView) -> None:
        """Keep everything; nothing is as unlike any attention as none."""
        view.state["before"] = torch.zeros_like(view.present, dtype=torch.float32)
        view.state["chosen"] = view.present

    def decode(self, view: DecodeView) -> Tensor:
        """Choose where attention has moved."""
        attention = view.attention[self.layer - 1].head_scores.mean(dim=1)
        moved = cosine_similarity(attention, view.state["before"], dim=1) < self.threshold
        count = (view.visual_tokens.double() * (1 - self.rate)).long()
        otherwise = view.present if self.unmoved == "all" else view.state["chosen"]
        chosen = torch.where(moved[:, None], top(attention, count, view.present), otherwise)
        view.state["before"], view.state["chosen"] = attention, chosen
        return chosen
