"""Like SparseVLM (arXiv:2410.04417): at some layers, keep what the question looks at, and recycle what
leaves.
"""

from dataclasses import dataclass

import torch

from dyrate import Kept, Needs, PrefillView, ReductionMethod, hyperparameter
from dyrate.ranking import kept_counts, top


@dataclass(frozen=True)
class RecycledTokens(ReductionMethod):
    """On entering each of `layers`, keep a share of the tokens left, and one more: the mean of those that
    leave.

    The raters are the instruction tokens that match the image better than average, by softmax(visual states .
    text states) before the first layer. A token's score is their attention at the layer before, averaged over
    heads and raters. The recycled token takes the place of the best of those that leave.
    """

    title = "Recycled tokens"
    examples = ({"layers": [1, 3, 4]}, {"layers": [2, 3, 5], "rate": 0.7})

    layers: tuple[int, ...] = hyperparameter(
        "layers on entering which tokens leave", default=(3, 7, 16), minimum=1
    )
    rate: float = hyperparameter("share of the tokens left that leaves", default=0.5, minimum=0, maximum=1)

    def needs(self, depth: int) -> Needs:
        """All instruction queries' attention at the layers before, and positions without gaps."""
        return Needs(
            prefill=(0, *self.layers),
            attention={layer - 1: "instruction" for layer in self.layers},
            reported=self.layers[-1] - 1,
            positions="contiguous",
        )

    def prefill(self, view: PrefillView) -> Kept | None:
        """Choose the raters before the first layer, and tokens at the others."""
        if view.layer == 0:
            match = view.states @ view.instruction_states.transpose(1, 2)
            match = match.masked_fill(~view.instruction[:, None], -torch.inf).softmax(dim=2)
            match = (match * view.present[:, :, None]).sum(dim=1) / view.visual_counts[:, None].clamp_min(1)
            mean = match.sum(dim=1, keepdim=True) / view.instruction.sum(dim=1, keepdim=True)
            view.state["raters"] = view.instruction & (match >= mean)
            return None
        raters = view.state["raters"].float()[:, :, None]
        attention = view.attention[view.layer - 1].prompt.visual.mean(dim=1)
        scores = (attention * raters).sum(dim=1) / raters.sum(dim=1).clamp_min(1)
        keep = top(scores, kept_counts(view.visual_counts, self.rate), view.present)
        gone = view.present & ~keep
        home = top(scores, gone.any(dim=1).long(), gone)
        mean = (view.states * gone[:, :, None]).sum(dim=1) / gone.sum(dim=1, keepdim=True).clamp_min(1)
        states = torch.where(home[:, :, None], mean[:, None], view.states)
        into = torch.arange(keep.shape[1]).to(scores.device).expand_as(keep).masked_fill(~view.present, -1)
        return Kept(keep | home, states, into.where(~gone, home.long().argmax(dim=1, keepdim=True)))
