"""VoCo-LLaMA: no new module, but a token that the language model learns to press the image into."""

import torch
from torch import Tensor, nn

from dyrate.connectors.connector import Connector, Question, Sizes, two_layers


class CompressionTokens(Connector):
    """LLaVA-1.5's projector, and behind each image `count` times the token of id `token`, whose embedding is
    learned. Nothing that follows sees the image, or what stands before it: see the method `voco`, under which
    alone such a model answers as it was trained.

    In LLaVA-1.5's prompt, where `USER:` stands before the image; the official one begins with the image, and
    has a line break on either side of the tokens. Its number of them, 2, is written into the training code.

    Source: arXiv:2406.12275, Yxxxb/VoCo-LLaMA, `preprocess_v1` and `make_voco_mask_llava`.
    """

    name = "compression_tokens"

    def __init__(self, sizes: Sizes, *, count: int = 2, token: int = 32000) -> None:
        super().__init__(sizes)
        self.count, self.token = count, token
        self.tokens, self.appended = sizes.side**2, count
        self.mlp = two_layers(sizes.width, sizes.hidden)
        self.embedding = nn.Parameter(torch.empty(sizes.hidden).normal_(std=0.02))

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`: the image's tokens alone."""
        found: Tensor = self.mlp(states)
        return found
