"""FastV: after a few layers, keep the visual tokens that the prompt's last token attends to most."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dyrate.methods.prefill_pruning import PrefillPruning
from dyrate.reduction import Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class FastV(PrefillPruning):
    """Keep the visual tokens most attended to by the last prompt token.

    On entering layer K, round((1 - R) V) visual tokens of each row stay, ranked by the attention of the row's
    own last token at layer K-1, averaged over heads; they keep their positions. This is what the official
    code does (pkunlp-icler/FastV, `fastv_forward` of its llava-hf port), but for its use of the first row's
    ranking for the whole batch. The paper's text ranks by the attention received from all tokens
    (arXiv:2403.06764, section 4.1).
    """

    name: ClassVar[str] = "fastv"
    title: ClassVar[str] = "FastV"
    paper: ClassVar[str] = "arXiv:2403.06764"
    examples = ({"layer": 1, "rate": 0.75}, {"layer": 2, "rate": 0.5}, {"layer": 5, "rate": 1.0})
    keeps_everything = ({"layer": 2, "rate": 0.0},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=1
    )

    def needs(self, depth: int) -> Needs:
        """The attention of layer K-1."""
        return Needs(prefill=(self.layer,), attention=(self.layer - 1,))

    def score(self, view: PrefillView) -> Tensor:
        """The last token's attention."""
        return view.attention[self.layer - 1].scores
