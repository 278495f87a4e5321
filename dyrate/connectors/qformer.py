"""Q-Former: learned queries in a small BERT that looks at the image, with the question beside them or
without.
"""

import torch
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
)

from dyrate.connectors.connector import Connector, Question, Sizes


class QFormer(Connector):
    """BLIP-2's: `queries` learned vectors, self-attention among them, and in every second layer, from the
    first on, attention to the tower's states, class token among them, after a norm of their own. Of real
    systems: MiniGPT-4.

    What runs is transformers' own `Blip2QFormerModel`, which the official checkpoints are converted to.

    Source: arXiv:2304.10592, Vision-CAIR/MiniGPT-4, `init_Qformer` and `encode_img`: no text goes in, so that
    the words' embeddings and feed-forward halves are not there.
    """

    name = "qformer"
    class_token = True

    def __init__(
        self,
        sizes: Sizes,
        *,
        queries: int = 32,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        feed_forward: int = 3072,
    ) -> None:
        super().__init__(sizes)
        self.queries = self.tokens = queries
        self.width, self.depth, self.heads, self.feed_forward = width, depth, heads, feed_forward
        self.norm = nn.LayerNorm(sizes.width)
        self.query = nn.Parameter(torch.zeros(1, queries, width).normal_(std=0.02))
        self.qformer = self._bert()
        self.projection = nn.Linear(width, sizes.hidden)

    @property
    def grid(self) -> None:
        """None: a query looks anywhere."""
        return None

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`."""
        found: Tensor = self.projection(self.look(self.norm(states), question))
        return found

    def look(self, image: Tensor, question: Question | None) -> Tensor:
        """Return what the queries become, [images, queries, width], for normed states of the tower."""
        query = self.query.expand(len(image), -1, -1)
        found: Tensor = self.qformer(query_embeds=query, encoder_hidden_states=image).last_hidden_state
        return found

    def _sizes(self) -> dict[str, int]:
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "intermediate_size": self.feed_forward,
            "encoder_hidden_size": self.sizes.width,
        }

    def _bert(self) -> nn.Module:
        bert: nn.Module = Blip2QFormerModel(Blip2QFormerConfig(**self._sizes()))
        return bert


class InstructQFormer(QFormer):
    """BLIP-2's with the question: queries and words attend to each other, words have positions and a feed-
    forward half of their own, and only queries look at the image. Of real systems: InstructBLIP.

    What runs is transformers' own `InstructBlipQFormerModel`. The real one reads BERT's word pieces; one that
    was trained with another tokenizer reads that one's, of which `vocabulary` is the size. Longer questions
    than `words` are cut at the end.

    Source: arXiv:2305.06500, salesforce/LAVIS, `blip2_vicuna_instruct`.
    """

    name = "instruct_qformer"
    reads_questions = True

    def __init__(self, sizes: Sizes, *, vocabulary: int = 30523, words: int = 128, **others: int) -> None:
        self.vocabulary, self.words = vocabulary, words
        super().__init__(sizes, **others)

    def look(self, image: Tensor, question: Question | None) -> Tensor:
        """As in `QFormer`."""
        assert question is not None
        query = self.query.expand(len(image), -1, -1)
        seen = torch.cat([question.mask.new_ones(query.shape[:2]), question.mask], dim=1)
        found: Tensor = self.qformer(
            input_ids=question.ids,
            attention_mask=seen.long(),
            query_embeds=query,
            encoder_hidden_states=image,
        ).last_hidden_state
        return found[:, : self.queries]

    def _bert(self) -> nn.Module:
        config = InstructBlipQFormerConfig(
            **self._sizes(), vocab_size=self.vocabulary, max_position_embeddings=max(512, self.words)
        )
        bert: nn.Module = InstructBlipQFormerModel(config)
        return bert
