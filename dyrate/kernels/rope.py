"""Rotary positions as Llama has them, on the output of a fused query, key and value projection.

`qkv` holds, for each token, the queries of all heads, then the keys of all kv heads, then their values, D
wide each. cos and sin are D wide, the two halves alike or not, in any float dtype.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate.kernels.norm import rms_norm


@dataclass(frozen=True, eq=False)
class HeadNorms:
    """RMSNorms of each head's queries and keys, before they are rotated."""

    query: Tensor
    """[D]."""
    key: Tensor
    """[D]."""
    eps: float


def rope_and_store(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    norms: HeadNorms | None = None,
) -> Tensor:
    """Rotate query and key of one token per row, write its key and value to the cache, return the query.

    qkv [batch, (heads + 2 kv_heads) D], cos, sin [batch or 1, D], keys, values [batch, kv_heads, slots, D],
    written in place at `slots` (LongTensor [batch]) -> query [batch, heads, D].
    """
    if qkv.is_cuda:
        from dyrate.kernels.device.rope import rotate_and_store

        return rotate_and_store(qkv, cos, sin, keys, values, slots, norms)
    query, key, value = rope_and_split(qkv[:, None], cos[:, None], sin[:, None], keys.shape[1], norms)
    rows = torch.arange(len(qkv), device=qkv.device)
    keys[rows, :, slots] = key[:, :, 0].to(keys.dtype)
    values[rows, :, slots] = value[:, :, 0].to(values.dtype)
    return query[:, :, 0]


def rope_and_split(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv_heads: int,
    norms: HeadNorms | None = None,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate queries and keys of a prompt.

    qkv [batch, tokens, (heads + 2 kv_heads) D], cos, sin [batch or 1, tokens, D] -> query [batch, heads,
    tokens, D], key, value [batch, kv_heads, tokens, D]. In memory a token's heads lie side by side: SDPA's
    output takes the query's layout, and in this one the next product can read it as it is. `out` is three
    such tensors to write to.
    """
    if qkv.is_cuda:
        from dyrate.kernels.device.rope import rotate_and_split

        return rotate_and_split(qkv, cos, sin, kv_heads, norms, out)
    batch, tokens, _ = qkv.shape
    states = qkv.reshape(batch, tokens, -1, cos.shape[-1]).transpose(1, 2)
    turning, value = states[:, :-kv_heads], states[:, -kv_heads:]
    if norms is not None:
        ranges = turning[:, :-kv_heads], turning[:, -kv_heads:]
        weights = norms.query, norms.key
        turning = torch.cat(
            [rms_norm(part, weight, norms.eps) for part, weight in zip(ranges, weights, strict=True)], dim=1
        )
    turning = turning.float()
    low, high = turning.chunk(2, dim=-1)
    turned = turning * cos.float()[:, None] + torch.cat([-high, low], dim=-1) * sin.float()[:, None]
    turned = turned.to(qkv.dtype)
    query, key = turned[:, :-kv_heads], turned[:, -kv_heads:]
    if out is not None:
        for part, place in zip((query, key, value), out, strict=True):
            place.copy_(part)
        return out
    query, key, value = (part.transpose(1, 2).contiguous().transpose(1, 2) for part in (query, key, value))
    return query, key, value
