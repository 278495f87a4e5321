"""LLaMA-VID: one token of what the question finds in the image, then the image itself."""

from typing import Any

import torch
from torch import Tensor, nn

from dyrate.connectors.connector import Connector, Question, Sizes, divides, pooled, raster, two_layers
from dyrate.connectors.qformer import InstructQFormer


class ContextToken(Connector):
    """A context token, and the content: all patches, or their means over a grid of `edge` x `edge`.

    InstructBLIP's Q-Former reads question and image; each of its queries, through a matrix, looks at the
    patches (whose keys are another matrix of them, and whose values are they themselves); the mean over the
    queries goes through a third matrix and comes first. The content goes through LLaVA's projector. With
    `edge` 0 no patch is averaged: the official image checkpoints keep 256 or 576 of them, and only video and
    `grid:4` are small.

    `layer` is the tower's hidden state that all of this is made of: -1 with the official tower, an EVA ViT-g
    without its last layer. The other fields are the Q-Former's. The official one reads BERT's word pieces,
    [CLS] and [SEP] among its 256 words.

    Source: arXiv:2311.17043, dvlab-research/LLaMA-VID, `vlm_attention` and `token_generation`.
    """

    name = "context"
    reads_questions = True
    keeps_end = True
    class_token = True

    def __init__(
        self, sizes: Sizes, *, edge: int = 0, layer: int = -2, words: int = 256, **reader: int
    ) -> None:
        super().__init__(sizes)
        self.edge, self.layer, self.words = edge, layer, words
        self.layers = (layer,)
        self.kernel = divides(edge or sizes.side, sizes.side, "edge")
        self.tokens = (edge or sizes.side) ** 2 + 1
        self.reader = InstructQFormer(sizes, words=words, **reader)
        del self.reader.projection
        self.query_proj = nn.Linear(self.reader.width, sizes.width)
        self.key_proj = nn.Linear(sizes.width, sizes.width)
        self.value_proj = nn.Linear(sizes.width, sizes.hidden)
        self.mlp = two_layers(sizes.width, sizes.hidden)

    @classmethod
    def field_names(cls) -> list[str]:
        """As in `Connector`, with the Q-Former's."""
        return list(dict.fromkeys([*super().field_names(), *InstructQFormer.field_names()]))

    @property
    def fields(self) -> dict[str, Any]:
        """As in `Connector`, with the Q-Former's."""
        return {**self.reader.fields, "edge": self.edge, "layer": self.layer}

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
