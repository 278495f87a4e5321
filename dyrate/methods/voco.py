"""VoCo-LLaMA: the image is seen by a few compression tokens, and by nothing that follows them."""

from dataclasses import dataclass
from typing import ClassVar

from dyrate.reduction import Needs, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class VoCo(ReductionMethod):
    """Hide the image, but from a few compression tokens behind it.

    The instruction and the answer see neither the image nor what stands before it; all that they learn of
    them comes by way of these tokens. After the prefill the image's keys and values leave the KV cache.

    So does the official code (Yxxxb/VoCo-LLaMA, `make_voco_mask_llava`): what stands at or before the last
    compression token sees that far back, what follows sees from the first of them on. Positions are the plain
    ones. Differences: there the mask is put on in the sdpa branch alone, without a word in the others, and
    the image stays in the cache to the end, hidden by a mask that is built anew at each step, so that nothing
    is saved; to drop it is the same (tested). A line break between image and compression tokens is left out
    here.

    For a language model that was trained so: the joined models of connector `compression_tokens`. On any
    other it is blindness. The authors' weights were never released.
    """

    name: ClassVar[str] = "voco"
    title: ClassVar[str] = "VoCo"
    paper: ClassVar[str] = "arXiv:2406.12275"
    examples = ({"token": 59},)

    token: int = hyperparameter("id of the compression token in the prompt", default=32000, minimum=0)

    def needs(self, depth: int) -> Needs:
        """The mask."""
        return Needs(
            compression_tokens=(self.token,),
            blocked=frozenset({("ins", "sys"), ("ins", "img"), ("res", "sys"), ("res", "img")}),
        )
