"""LLaVA-1.5's own: each patch becomes a token."""

from torch import Tensor

from dyrate.connectors.connector import Connector, Question, Sizes, two_layers


class Projector(Connector):
    """Two linear layers with a GELU between them, on every patch. The reference that compressors are held to.

    Source: arXiv:2310.03744, haotian-liu/LLaVA, `mlp2x_gelu`.
    """

    name = "projector"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.tokens = sizes.side**2
        self.mlp = two_layers(sizes.width, sizes.hidden)

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`."""
        found: Tensor = self.mlp(states)
        return found
