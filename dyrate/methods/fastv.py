"""FastV: after a few layers, keep the visual tokens that the prompt's last token attends to most."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor

from dyrate.methods.prefill_pruning import PrefillPruning
from dyrate.needs import Queries
from dyrate.reduction import Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class FastV(PrefillPruning):
    """Keep the visual tokens most attended to by the last prompt token.

    On entering layer K, round((1 - R) V) visual tokens of each row stay, ranked by the attention of the row's
    own last token at layer K-1, averaged over heads; they keep their positions. This is what the official
    code does (pkunlp-icler/FastV, `fastv_forward` of its llava-hf port), but for its use of the first row's
    ranking for the whole batch.

    The paper's text has another ranking, with `queries="all"`: "the average attention-score one token
    received from all other tokens" (arXiv:2403.06764, section 4.1), those of the whole prompt.
    """

    name: ClassVar[str] = "fastv"
    title: ClassVar[str] = "FastV"
    paper: ClassVar[str] = "arXiv:2403.06764"
    examples = (
        {"layer": 1, "rate": 0.75},
        {"layer": 2, "rate": 0.5},
        {"layer": 5, "rate": 1.0},
        {"layer": 2, "rate": 0.6, "queries": "all"},
    )
    keeps_everything = ({"layer": 2, "rate": 0.0},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=1
    )
    queries: str = hyperparameter(
        "whose attention ranks: that of the `last` token, or of `all` other tokens, as the paper says",
        default="last",
        choices=("last", "all"),
    )

    def spec(self) -> dict[str, Any]:
        """As for every method, without `queries` where it says nothing new: results from before there was
        such a field go by the same name.
        """
        found = super().spec()
        if self.queries == "last":
            del found["queries"]
        return found

    def needs(self, depth: int) -> Needs:
        """The attention of layer K-1."""
        return Needs(prefill=(self.layer,), attention={self.layer - 1: cast(Queries, self.queries)})

    def score(self, view: PrefillView) -> Tensor:
        """The last token's attention, or that of all others."""
        attention = view.attention[self.layer - 1]
        if self.queries == "last":
            return attention.scores
        prompt = attention.prompt
        received = prompt.visual.mean(dim=1)  # [B, slots, V]
        itself = received.gather(1, prompt.tokens.visual_slots.clamp_min(0)[:, None])
        others = prompt.queries.sum(dim=1, keepdim=True) - 1
        return (received.sum(dim=1) - itself[:, 0]) / others
