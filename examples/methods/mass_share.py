"""Like VisionPulse (arXiv:2605.31457): each decode step sees as large a share as it attends to the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate import DecodeView, Needs, ReductionMethod, hyperparameter
from dyrate.ranking import top


@dataclass(frozen=True)
class MassShare(ReductionMethod):
    """From layer K on, a step attends to floor(m V) visual tokens, at least one; the KV cache stays whole.

    m is the newest query's attention mass on the image at layer K-1, the largest of all heads, clipped to
    [`least`, `most`]. Tokens are ranked by the logarithm of their attention, averaged over heads, which
    orders them as the mean of the heads' logits does. The official code also has a temperature on the mass,
    and masks the anchor layer itself.
    """

    title = "Mass share"
    examples = ({"layer": 2, "least": 0.2, "most": 0.6},)
    keeps_everything = ({"layer": 2, "least": 1.0},)

    layer: int = hyperparameter("K: the layer after the one whose attention decides", default=18, minimum=1)
    least: float = hyperparameter("smallest share that is kept", default=0.05, minimum=0, maximum=1)
    most: float = hyperparameter("largest share that is kept", default=1.0, minimum=0, maximum=1)

    def needs(self, depth: int) -> Needs:
        """The newest query's attention at layer K-1, to select tokens of layer K at every decode step."""
        return Needs(decode=(self.layer,), attention=(self.layer - 1,), capturable=True)

    def decode(self, view: DecodeView) -> Tensor:
        """Take the best."""
        attention = view.attention[self.layer - 1]
        share = attention.class_mass[..., 1].amax(dim=1).double().clamp(self.least, self.most)
        count = torch.floor(share * view.visual_tokens).long().clamp_min(1)
        return top((attention.head_scores + 1e-30).log().mean(dim=1), count, view.present)
