"""Qwen-VL's: learned queries that look once at all patches, both with 2-D positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dyrate.connectors.connector import Connector, Question, Sizes, raster


class Resampler(Connector):
    """One layer of cross-attention from `edge` x `edge` learned queries to the patches, and a matrix.

    Queries and keys carry the same fixed table of 2-D sines and cosines, which for the keys is interpolated
    to the patches' grid (bicubic, corners not aligned); values carry none. No residual, no feed-forward half.
    The real one has 16 x 16 queries of 4096 numbers in heads of 128, for 32 x 32 patches of a tower without a
    class token.

    Source: arXiv:2308.12966, QwenLM/Qwen-VL, `Resampler`; vLLM's `Resampler2` is the same.
    """

    name = "resampler"

    def __init__(self, sizes: Sizes, *, edge: int = 16, heads: int = 32) -> None:
        super().__init__(sizes)
        self.edge, self.heads, self.tokens = edge, heads, edge**2
        hidden = sizes.hidden
        self.query = nn.Parameter(torch.empty(self.tokens, hidden))
        self.kv_proj = nn.Identity() if sizes.width == hidden else nn.Linear(sizes.width, hidden, bias=False)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(hidden, eps=1e-6) for _ in range(3))
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.proj = nn.Parameter(hidden**-0.5 * torch.randn(hidden, hidden))
        table = sines(edge, hidden)
        larger = functional.interpolate(table[None], (sizes.side, sizes.side), mode="bicubic")
        self.register_buffer("query_positions", raster(table[None]), persistent=False)
        self.register_buffer("key_positions", raster(larger), persistent=False)
        nn.init.trunc_normal_(self.query, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def grid(self) -> None:
        """None: a query looks anywhere."""
        return None

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """As in `Connector`."""
        value = self.ln_kv(self.kv_proj(states))
        query = (self.ln_q(self.query) + self.query_positions).to(value.dtype)
        key = (value + self.key_positions).to(value.dtype)
        found, _ = self.attention(query.expand(len(states), -1, -1), key, value, need_weights=False)
        tokens: Tensor = self.ln_post(found) @ self.proj
        return tokens


def sines(edge: int, width: int) -> Tensor:
    """Return the table of 2-D positions, FloatTensor [width, edge, edge]: the first half of the numbers is of
    the column, the second of the row; each half has the sines of falling frequencies first, then the cosines.
    """
    rates = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(edge)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1).T
    columns, rows = line[:, None, :].expand(-1, edge, -1), line[:, :, None].expand(-1, -1, edge)
    return torch.cat([columns, rows])
