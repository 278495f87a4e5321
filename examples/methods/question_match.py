"""Text-conditioned: keep the visual tokens that a text encoder finds most like the question."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from dyrate import Needs, PrefillPruning, PrefillView, hyperparameter


@dataclass(frozen=True)
class QuestionMatch(PrefillPruning):
    """Rank the tower's patch states by their cosine with the question's features.

    The text encoder is the one that the checkpoint carries; its features must be as wide as the tower's
    states.
    """

    title = "Question match"
    examples = ({"layer": 0, "rate": 0.5}, {"layer": 2, "rate": 0.75})
    keeps_everything = ({"rate": 0.0},)

    layer: int = hyperparameter(
        "prune layer K: the first layer without the dropped tokens", default=0, minimum=0
    )

    def needs(self, depth: int) -> Needs:
        """The question's text, and the tower's second-last layer."""
        return Needs(prefill=(self.layer,), question=True, tower={-2: ("states",)})

    def score(self, view: PrefillView) -> Tensor:
        """The cosine."""
        states = normalize(view.tower(-2).states, dim=-1)
        return (states @ normalize(view.question_features, dim=-1)[:, :, None]).squeeze(-1)
