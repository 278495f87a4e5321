"""FastV: after a few layers, keep the visual tokens that the prompt's last token attends to most."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dyrate.ranking import kept_counts, top
from dyrate.reduction import ReductionMethod, View, hyperparameter


@dataclass(frozen=True)
class FastV(ReductionMethod):
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

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=1
    )
    rate: float = hyperparameter(
        "share R of the visual tokens that is dropped", default=0.5, minimum=0, maximum=1
    )

    def prune_layers(self, num_layers: int) -> tuple[int, ...]:
        """Layer K."""
        return (self.layer,)

    def statistics_layers(self, num_layers: int) -> tuple[int, ...]:
        """Layer K-1."""
        return (self.layer - 1,)

    def prefill(self, view: View) -> Tensor:
        """Keep the best ranked tokens of each row."""
        return top(view.scores, kept_counts(view.visual_tokens, self.rate))
