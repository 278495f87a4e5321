"""Pruning once, while the prompt is read: what FastV and its relatives, and the controls, share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from dyrate.methods.budget import RateOrBudget
from dyrate.ranking import kept_counts, top
from dyrate.reduction import Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class PrefillPruning(RateOrBudget, ABC):
    """Drop visual tokens on entering layer K: round((1 - R) V) of each row stay, those with the highest
    scores.

    They keep their positions. Subclasses give the scores, and say in `needs` what these read.
    """

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=2, minimum=0
    )

    @abstractmethod
    def score(self, view: PrefillView) -> Tensor:
        """Return the scores (FloatTensor [B, V]); those of absent tokens mean nothing, others are finite."""

    def needs(self, depth: int) -> Needs:
        """To be asked at layer K."""
        return Needs(prefill=(self.layer,))

    def prefill(self, view: PrefillView) -> Tensor:
        """Keep the best of each row; of equal scores, that of the lower index."""
        scores = self.score(view)
        view.expect_finite("scores", scores.masked_fill(~view.present, 0))
        return top(scores, kept_counts(view.visual_tokens, self.rate_at(view)), view.present)
