"""FasterVLM: keep what the vision tower's class token looks at, before the language model sees anything."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor

from dyrate.methods.budget import RateOrBudget
from dyrate.methods.images import Choice, Images, finite, reduced
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.ranking import kept_counts, top
from dyrate.reduction import Kept, Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class FasterVLM(RateOrBudget):
    """Keep the visual tokens that the class token of the vision tower attends to most.

    On entering layer 0, round((1 - R) P) of each picture's P visual tokens stay, ranked by the class token's
    attention in the layer of the tower that the projector reads (LLaVA-1.5: the second-last), averaged over
    heads; in the image's order, at positions without gaps. So does the official code (Theia-4869/FasterVLM,
    `clip_encoder.py`), which is given the number of tokens. A picture is an image or, of LLaVA-NeXT, one of
    its tiles, whose newlines stay, as in the official code; there the tokens of a tile are chosen before
    unpadding, here of those that it left. A tower without class token has the attention that patches receive.
    """

    name: ClassVar[str] = "fastervlm"
    title: ClassVar[str] = "FasterVLM"
    paper: ClassVar[str] = "arXiv:2412.01818"
    examples = ({"rate": 0.75}, {"rate": 0.4})
    keeps_everything = ({"rate": 0.0},)

    layer: int = hyperparameter("prune layer; the official code has 0", default=0, minimum=0)

    positions: str = positions_of("contiguous", "what is left")

    def needs(self, depth: int) -> Needs:
        """The class token's attention in one layer of the tower."""
        return Needs(
            prefill=(self.layer,),
            tower={"projected": ("salience",)},
            positions=cast(Positions, self.positions),
        )

    def prefill(self, view: PrefillView) -> Tensor | Kept:
        """Keep the best of each picture; of equal scores, that of the lower index."""
        attention = finite(view, "attention", view.tower("projected").salience.mean(dim=1))
        return reduced(view, partial(self._of_size, attention=attention))

    def _of_size(self, images: Images, attention: Tensor) -> Choice:
        scores = images.split(attention)
        size = torch.full_like(scores[:, 0], images.size)
        return Choice(top(scores, kept_counts(size, self.rate_at(images.view))))
