"""M3: one projector whose tokens are averaged over squares of any size."""

from torch import Tensor

from dyrate.connectors.connector import Connector, Question, Sizes, divides, pooled, raster, two_layers


class NestedPool(Connector):
    """LLaVA-1.5's projector, then the mean over squares of `kernel` x `kernel` tokens, in raster order.

    No parameter and no position belongs to a scale: trained at all of `kernels` at once (the loss is their
    mean), one checkpoint serves any of them. `kernel` is the one in use, and may be changed at any time.
    At LLaVA-1.5's 24 x 24 patches the official kernels 24, 8, 4, 2 and 1 make 1, 9, 36, 144 and 576 tokens.

    Source: arXiv:2405.17430, mu-cai/matryoshka-mm, `matryoshka_vis_token_process`.
    """

    name = "nested_pool"

    def __init__(self, sizes: Sizes, *, kernel: int = 1, kernels: tuple[int, ...] = (24, 8, 4, 2, 1)) -> None:
        super().__init__(sizes)
        self.kernels = kernels
        for one in (*kernels, kernel):
            divides(one, sizes.side, "kernel")
        self.kernel = kernel
        self.mlp = two_layers(sizes.width, sizes.hidden)

    @property
    def tokens(self) -> int:  # type: ignore[override]
        """Visual tokens of an image at the kernel in use."""
        return divides(self.kernel, self.sizes.side, "kernel") ** 2

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`."""
        return raster(pooled(self.patches(self.mlp(states)), self.kernel))
