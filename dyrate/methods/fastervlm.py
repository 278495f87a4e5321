"""FasterVLM: keep what the vision tower's class token looks at, before the language model sees anything."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dyrate.methods.prefill_pruning import PrefillPruning
from dyrate.reduction import Needs, PrefillView, hyperparameter


@dataclass(frozen=True)
class FasterVLM(PrefillPruning):
    """Keep the visual tokens that the class token of the vision tower attends to most.

    On entering layer 0, round((1 - R) V) visual tokens of each row stay, ranked by the class token's
    attention in the second-last layer of the tower, averaged over heads; in the image's order, at positions
    without gaps. So does the official code (Theia-4869/FasterVLM, `clip_encoder.py`), which is given the
    number of tokens.
    """

    name: ClassVar[str] = "fastervlm"
    title: ClassVar[str] = "FasterVLM"
    paper: ClassVar[str] = "arXiv:2412.01818"
    examples = ({"rate": 0.75}, {"rate": 0.4})
    keeps_everything = ({"rate": 0.0},)

    layer: int = hyperparameter("prune layer; the official code has 0", default=0, minimum=0)

    def needs(self, depth: int) -> Needs:
        """The class token's attention in one layer of the tower, and positions without gaps."""
        return Needs(prefill=(self.layer,), tower={-2: ("class_attention",)}, positions="contiguous")

    def score(self, view: PrefillView) -> Tensor:
        """The class token's attention."""
        return view.tower(-2).class_attention.mean(dim=1)
