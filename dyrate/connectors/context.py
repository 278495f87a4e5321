"""LLaMA-VID: one token of what the question finds in the image, then the image itself."""

import torch
from torch import Tensor, nn

from dyrate.connectors.connector import Connector, Question, Sizes, divides, pooled, raster, two_layers
from dyrate.connectors.qformer import InstructQFormer


class ContextToken(Connector):
    """A context token, and the content: all patches, or their means over a grid of `edge` x `edge`.

    InstructBLIP's Q-Former reads question and image; each of its queries, through a matrix, looks at the
    patches (whose keys are another matrix of them, and whose values are they themselves); the mean over the
    queries goes through a third matrix and comes first. The content goes through LLaVA's projector. With
    `edge` 0 no patch is
    averaged: the official image checkpoints keep 256 or 576 of them, and only video and `grid:4` are small.

    Source: arXiv:2311.17043, dvlab-research/LLaMA-VID, `vlm_attention` and `token_generation`.
    """

    name = "context"
    reads_questions = True
    keeps_end = True
    class_token = True

    def __init__(
        self,
        sizes: Sizes,
        *,
        edge: int = 0,
        queries: int = 32,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        feed_forward: int = 3072,
        vocabulary: int = 30523,
        words: int = 256,
    ) -> None:
        super().__init__(sizes)
        self.edge, self.queries, self.width, self.depth, self.heads = edge, queries, width, depth, heads
        self.feed_forward, self.vocabulary, self.words = feed_forward, vocabulary, words
        self.kernel = divides(edge or sizes.side, sizes.side, "edge")
        self.tokens = (edge or sizes.side) ** 2 + 1
        self.reader = InstructQFormer(
            sizes,
            queries=queries,
            width=width,
            depth=depth,
            heads=heads,
            feed_forward=feed_forward,
            vocabulary=vocabulary,
            words=words,
        )
        del self.reader.projection
        self.query_proj = nn.Linear(width, sizes.width)
        self.key_proj = nn.Linear(sizes.width, sizes.width)
        self.value_proj = nn.Linear(sizes.width, sizes.hidden)
        self.mlp = two_layers(sizes.width, sizes.hidden)

    @property
    def grid(self) -> None:
        """None: the first token stands nowhere."""
        return None

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`."""
        patches = states[:, 1:]
        query = self.query_proj(self.reader.look(self.reader.norm(states), question))
        scores = query @ self.key_proj(patches).transpose(1, 2) / self.sizes.width**0.5
        context = self.value_proj((scores.softmax(-1) @ patches).mean(1, keepdim=True))
        content = self.mlp(raster(pooled(self.patches(states), self.kernel)))
        return torch.cat([context, content], dim=1)
