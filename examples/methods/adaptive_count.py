"""Like LLaVA-PruMerge (arXiv:2403.15388): as many tokens as the class token's attention has outliers."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate import Kept, Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class AdaptiveCount(ReductionMethod):
    """Keep each image's outliers, and add to them what leaves, weighted by its attention.

    An outlier has more of the class token's attention than Q3 + `spread` (Q3 - Q1) of its image's tokens. A
    token that leaves goes to the outlier whose key is most like its own. The number kept differs by image; at
    least the most attended token of each stays.
    """

    title = "Adaptive count"
    examples = ({"spread": 0.2}, {"spread": 1.5})
    keeps_everything = ({"spread": -1e6},)

    spread: float = hyperparameter("interquartile ranges above the third quartile", default=1.5)

    def needs(self, depth: int) -> Needs:
        """Three things of the tower's second-last layer, and positions without gaps."""
        return Needs(prefill=(0,), tower={-2: ("class_attention", "keys", "states")}, positions="contiguous")

    def prefill(self, view: PrefillView) -> Kept:
        """Go through the images of the rows, each by itself."""
        tower = view.tower(-2)
        attention, image = tower.class_attention.mean(dim=1), view.grid[..., 0]
        keys, features = normalize(tower.keys.flatten(2), dim=-1), tower.states.clone()
        keep, into = torch.zeros_like(view.present), torch.full_like(image, -1)
        for row in range(len(image)):
            for number in range(int(image[row].max()) + 1):
                own = (image[row] == number).nonzero().flatten()
                mass = attention[row, own]
                low, high = mass.quantile(0.25), mass.quantile(0.75)
                outlier = (mass > high + self.spread * (high - low)) | (mass == mass.max())
                kept, gone = own[outlier], own[~outlier]
                home = kept[(keys[row, gone] @ keys[row, kept].T).argmax(dim=1)]
                features[row].index_add_(0, home, mass[~outlier, None] * tower.states[row, gone])
                keep[row, kept] = True
                into[row, kept], into[row, gone] = kept, home
        states: Tensor = torch.where(
            (features != tower.states).any(-1, True), view.project(features), view.states
        )
        return Kept(keep, states, into)
