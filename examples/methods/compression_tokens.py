"""Like VoCo-LLaMA (arXiv:2406.12275): the image is seen only by compression tokens that follow it in the
prompt.
"""

from dataclasses import dataclass

import torch

from dyrate import Installation, Needs, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class CompressionTokens(ReductionMethod):
    """Hide the image from the instruction and the answer; all that they learn of it comes by way of `tokens`.

    After the prefill no layer needs the image's keys and values any more. The embeddings are trained together
    with the model where this means something; here they are random ones, of a seed.
    """

    title = "Compression tokens"

    tokens: tuple[int, ...] = hyperparameter("ids of the compression tokens in the prompt")
    width: int = hyperparameter("hidden size of the language model", minimum=1)
    seed: int = hyperparameter("seed of their embeddings", default=0, minimum=0)

    def needs(self, depth: int) -> Needs:
        """The mask."""
        return Needs(compression_tokens=self.tokens, blocked=frozenset({("ins", "img"), ("res", "img")}))

    def install(self, parts: Installation) -> None:
        """Embed them."""
        generator = torch.Generator().manual_seed(self.seed)
        parts.embed_tokens({token: torch.randn(self.width, generator=generator) for token in self.tokens})
