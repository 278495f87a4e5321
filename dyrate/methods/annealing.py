"""Annealing, after ST3: fewer visual tokens the deeper the layer, and fewer still the longer the answer."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.ranking import rounded_share, top
from dyrate.reduction import DecodeView, Needs, PrefillView, ReductionMethod, View, hyperparameter


@dataclass(frozen=True)
class Annealing(ReductionMethod):
    """Drop tokens on entering every `stride`-th layer from K on, and go on dropping as tokens are generated.

    In the s-th of these stages a row wants n = round(V (1 - R)^s f) visual tokens, where f is 1 at prefill
    and falls to `least` over the first `span` decode steps, in a straight line or half a wave of a cosine.
    Those with the most attention of the newest token, at the layer before and averaged over heads, stay; the
    others leave this layer and all deeper ones for good, keys and values included, so that a deeper stage may
    hold fewer than it wants. Positions are the original ones.

    There is no official code. ST3 (arXiv:2412.20105) says in its abstract, which is all that was read of it:
    inattentive visual tokens are dropped progressively across layers ("PVTP"), and the number in each layer
    falls as generated tokens grow ("VTA"), with about 30% of the KV cache left. Everything else here is
    inferred or our choice: whose attention ranks, the stages, the geometric fall over them, the law of the
    fall over steps, that it is for good, and all numbers. With the defaults and 32 layers half of the visual
    keys and values are left after the prompt, and 28% after 64 steps.
    """

    name: ClassVar[str] = "annealing"
    title: ClassVar[str] = "Annealing (after ST3)"
    paper: ClassVar[str] = "arXiv:2412.20105"
    examples = (
        {"layer": 1, "stride": 2, "rate": 0.2, "least": 0.3, "span": 4},
        {"layer": 3, "stride": 4, "rate": 0.1, "least": 0.0, "span": 3, "decay": "cosine"},
        {"layer": 2, "stride": 1, "rate": 0.25, "least": 0.5, "span": 1},
    )
    keeps_everything = ({"rate": 0.0, "least": 1.0},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=1
    )
    rate: float = hyperparameter(
        "share R of a stage's tokens that the next one drops", default=0.3, minimum=0, maximum=1
    )
    stride: int = hyperparameter("layers from one stage to the next", default=8, minimum=1)
    least: float = hyperparameter(
        "share of a stage's tokens that is left in the end", default=0.5, minimum=0, maximum=1
    )
    span: int = hyperparameter("decode steps until then", default=64, minimum=1)
    decay: str = hyperparameter(
        "how the number falls: `linear` or `cosine`", default="linear", choices=("linear", "cosine")
    )

    def needs(self, depth: int) -> Needs:
        """The attention of the layers before all stages, at every step."""
        if self.layer >= depth:
            raise DyrateError(f"{self}: there is no layer {self.layer}; the model has layers 0..{depth - 1}")
        stages = tuple(range(self.layer, depth, self.stride))
        return Needs(
            prefill=stages,
            decode=stages,
            decode_mode="evict",
            attention=tuple(layer - 1 for layer in stages),
            capturable=True,
        )

    def prefill(self, view: PrefillView) -> Tensor:
        """Keep the stage's best."""
        if view.layer == self.layer:
            view.state["steps"] = torch.zeros_like(view.visual_tokens)
        return self._best(view)

    def decode(self, view: DecodeView) -> Tensor:
        """Keep as many of them as this step leaves."""
        if view.layer == self.layer:
            view.state["steps"] = view.state["steps"] + 1
        return self._best(view)

    def _best(self, view: View) -> Tensor:
        stage = (view.layer - self.layer) // self.stride + 1
        way = (view.state["steps"].double() / self.span).clamp_max(1)
        if self.decay == "cosine":
            way = (1 - torch.cos(math.pi * way)) / 2
        share = (1 - self.rate) ** stage * (1 - (1 - self.least) * way)
        scores = view.attention[view.layer - 1].head_scores.mean(dim=1)
        return top(scores, rounded_share(view.visual_tokens, share), view.present)
