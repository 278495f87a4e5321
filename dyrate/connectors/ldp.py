"""MobileVLM V2's lightweight downsample projector (LDPv2)."""

from torch import Tensor, nn
from torch.nn import functional

from dyrate.connectors.connector import Connector, Question, Sizes, divides, raster, two_layers


class DownsampleProjector(Connector):
    """Two linear layers, the mean over squares of `stride` x `stride`, and a depthwise 3 x 3 convolution that
    is added to its own input, which tells a token where it is.

    The official code pools 24 x 24 patches to 12 x 12, whatever their number; here the stride is the field.

    Source: arXiv:2402.03766, Meituan-AutoML/MobileVLM, `LDPNetV2Projector`.
    """

    name = "ldp"

    def __init__(self, sizes: Sizes, *, stride: int = 2) -> None:
        super().__init__(sizes)
        self.stride = stride
        self.tokens = divides(stride, sizes.side, "stride") ** 2
        self.mlp = two_layers(sizes.width, sizes.hidden)
        self.peg = nn.Conv2d(sizes.hidden, sizes.hidden, 3, padding=1, groups=sizes.hidden)

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`."""
        side = self.sizes.side // self.stride
        pooled = functional.adaptive_avg_pool2d(self.patches(self.mlp(states)), (side, side))
        return raster(pooled + self.peg(pooled))
