"""DivPrune: keep visual tokens that are as unlike each other as possible."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dyrate.methods.positions import positions_of
from dyrate.methods.prefill_pruning import PrefillPruning
from dyrate.needs import Positions
from dyrate.ranking import kept_counts
from dyrate.reduction import Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class DivPrune(PrefillPruning):
    """Keep visual tokens chosen one by one, each as far as possible from those chosen before.

    On entering layer 0, round((1 - R) V) visual tokens of each row stay. The first is the one whose nearest
    neighbour is farthest; each further one has the largest distance to the nearest of those chosen. Distance
    is 1 - cosine of the projected features, in float32. They stay in the image's order, at positions without
    gaps, or where they were (`positions`).

    So does the official code (vbdi/divprune, `DivPrune` of `llava/model/llava_arch.py`), in the model's own
    precision and for the first row of a batch alone, whose choice all rows get. It may choose a token again,
    where all others are the same as one chosen; here a token is chosen once. The features of a row's images
    are compared with each other.
    """

    name: ClassVar[str] = "divprune"
    title: ClassVar[str] = "DivPrune"
    paper: ClassVar[str] = "arXiv:2503.02175"
    examples = ({"rate": 0.5}, {"rate": 0.8, "positions": "original"}, {"layer": 2, "rate": 0.3})
    keeps_everything = ({"rate": 0.0},)

    layer: int = hyperparameter("prune layer; the official code has 0", default=0, minimum=0)
    rate: float = hyperparameter(
        "share R of the visual tokens that is dropped; the official code keeps 0.098",
        default=0.902,
        minimum=0,
        maximum=1,
    )

    positions: str = positions_of("contiguous", "what is left")

    def needs(self, depth: int) -> Needs:
        """To be asked at the prune layer."""
        return Needs(prefill=(self.layer,), positions=cast(Positions, self.positions))

    def score(self, view: PrefillView) -> Tensor:
        """The earlier a token is chosen, the higher."""
        states = normalize(view.states.float(), dim=-1)
        distances = 1 - states @ states.transpose(1, 2)
        view.expect_finite("distances", distances)
        view.count_macs(int((view.visual_counts**2).sum()) * states.shape[-1])

        batch, tokens = view.present.shape
        itself = torch.eye(tokens, dtype=torch.bool, device=states.device)
        absent = itself | ~view.present[:, None]
        left, rows = view.present.clone(), torch.arange(batch, device=states.device)
        scores = torch.full_like(distances[:, 0], -tokens)
        nearest = distances.masked_fill(absent, torch.inf).amin(dim=2)
        for turn in range(int(kept_counts(view.visual_tokens, self.rate_at(view)).max())):
            # Of equal distances, the lower index; a row that has none left goes on with what changes nothing.
            chosen = nearest.masked_fill(~left, -torch.inf).argmax(dim=1)
            scores[rows, chosen] = torch.where(left[rows, chosen], -float(turn), scores[rows, chosen])
            left[rows, chosen] = False
            found = distances[rows, chosen]
            nearest = nearest.minimum(found) if turn else found
        return scores
