"""Like VisionZip (arXiv:2412.04467): what the class token looks at stays; the rest is merged into a few
tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate import Kept, Needs, PrefillView, ReductionMethod, hyperparameter
from dyrate.ranking import top


@dataclass(frozen=True)
class MergedTokens(ReductionMethod):
    """Keep the dominant tokens, and contextual ones, to which their most similar tokens' mean is added.

    All is taken from the second-last layer of the vision tower: attention of the class token, summed over
    heads; keys, averaged over heads, for similarity; states, which the connector projects after merging.
    Contextual tokens stand at equal distances among those that are not dominant.
    """

    title = "Merged tokens"
    examples = ({"dominant": 5, "contextual": 3},)
    keeps_everything = ({"dominant": 10_000, "contextual": 1},)

    dominant: int = hyperparameter("tokens of a row that stay as they are", default=54, minimum=1)
    contextual: int = hyperparameter("tokens that the others are merged into", default=10, minimum=1)

    def needs(self, depth: int) -> Needs:
        """Three things of one layer of the tower, and positions without gaps."""
        return Needs(prefill=(0,), tower={-2: ("class_attention", "keys", "states")}, positions="contiguous")

    def prefill(self, view: PrefillView) -> Kept:
        """Choose, merge, and project what was merged."""
        tower = view.tower(-2)
        attention = tower.class_attention.sum(dim=1)
        dominant = top(attention, view.visual_tokens.clamp_max(self.dominant), view.present)
        rest = view.present & ~dominant
        rank = rest.cumsum(dim=1) - 1
        stride = (rest.sum(dim=1, keepdim=True) // self.contextual).clamp_min(1)
        targets = rest & (rank % stride == 0) & (rank // stride < self.contextual)

        keys = normalize(tower.keys.mean(dim=2), dim=-1)
        alike = (keys @ keys.transpose(1, 2)).masked_fill(~targets[:, None], -torch.inf)
        home = alike.argmax(dim=2)
        merged = (rest & ~targets)[:, :, None] & (home[:, :, None] == torch.arange(home.shape[1]).to(home))
        weight = merged.transpose(1, 2).to(tower.states.dtype)
        mean = weight @ tower.states / weight.sum(dim=2, keepdim=True).clamp_min(1)

        projected = view.project(tower.states + mean)
        states: Tensor = torch.where(targets[:, :, None], projected, view.states)
        own = torch.arange(home.shape[1]).to(home).expand_as(home)
        into = torch.where(rest & ~targets, home, own).masked_fill(~view.present, -1)
        return Kept(dominant | targets, states, into)
