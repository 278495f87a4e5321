"""TokenPacker: coarse queries, each looking at the fine patches of its own square, from several layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dyrate.connectors.connector import Connector, Question, Sizes, divides, raster, two_layers


class TokenPacker(Connector):
    """Attention of a downsampled grid to the `scale` x `scale` patches under each of its points.

    Queries are the last of `layers`, interpolated to 1/`scale` of the edge (bilinear, fp32, corners not
    aligned); keys and values are the others side by side, through two linear layers each. No query is added
    to what it finds, and nothing has a position. At LLaVA-1.5's 24 x 24 patches scales 2, 3 and 4 make 144,
    64 and 36 tokens.

    Source: arXiv:2407.02392, CircleRadon/TokenPacker, `TokenPacker`, whose layers are those given here by
    default, of CLIP ViT-L's 24; a shallower tower needs others.
    """

    name = "token_packer"

    def __init__(
        self,
        sizes: Sizes,
        *,
        scale: int = 2,
        layers: tuple[int, ...] = (12, 16, 22, 23, -2),
        heads: int = 8,
    ) -> None:
        super().__init__(sizes)
        self.scale, self.layers, self.heads = scale, layers, heads
        self.tokens = divides(scale, sizes.side, "scale") ** 2
        width, fine = sizes.width, sizes.width * (len(layers) - 1)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = two_layers(fine, width), two_layers(fine, width)
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = two_layers(width, sizes.hidden)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`."""
        width, side = self.sizes.width, self.sizes.side // self.scale
        fine, last = states[..., :-width], states[..., -width:]
        coarse = functional.interpolate(self.patches(last).float(), (side, side), mode="bilinear")
        query = self.ln_q(self.q_proj(raster(coarse).to(states.dtype)))
        key, value = self.ln_k(self.k_proj(fine)), self.ln_v(self.v_proj(fine))
        found, _ = self.attention(
            query.flatten(0, 1)[:, None], self._squares(key), self._squares(value), need_weights=False
        )
        tokens: Tensor = self.mlp(found.view(len(states), -1, width))
        return tokens

    def _squares(self, tokens: Tensor) -> Tensor:
        """Return the patches of each square, [images x squares, scale^2, width], raster order in and out."""
        scale, side = self.scale, self.sizes.side // self.scale
        found = tokens.view(len(tokens), side, scale, side, scale, -1)
        return torch.einsum("bysxtw->byxstw", found).reshape(-1, scale**2, tokens.shape[-1])
