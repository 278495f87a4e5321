"""Rotary positions in Triton: one kernel for a prompt, into new tensors, and a step, into the cache."""
# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor

from dyrate.kernels.device.hopper import overlapping, wait

HEADS = 16
"""Heads, of queries, keys and values together, that a program handles; a power of two."""


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, slots: Tensor, norms=None
) -> Tensor:
    """Do what `rope_and_store` does."""
    batch, (kv_heads, width) = len(qkv), (keys.shape[1], keys.shape[3])
    query = qkv.new_empty(batch, qkv.shape[1] // width - 2 * kv_heads, width)
    _launch(qkv[:, None], cos[:, None], sin[:, None], query[:, :, None], keys, values, slots, norms)
    return query


def rotate_and_split(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    kv_heads: int,
    norms=None,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `rope_and_split` does."""
    batch, tokens, features = qkv.shape
    width = cos.shape[-1]
    heads = features // width - 2 * kv_heads
    counts = heads, kv_heads, kv_heads
    query, key, value = out or (
        qkv.new_empty(batch, tokens, count, width).transpose(1, 2) for count in counts
    )
    _launch(qkv, cos, sin, query, key, value, None, norms)
    return query, key, value


def _launch(qkv, cos, sin, query, keys, values, slots, norms):
    """Rotate qkv [batch, tokens, features] into query, keys, values [batch, heads, slots, D]."""
    batch, tokens, _ = qkv.shape
    heads, kv_heads, width = query.shape[1], keys.shape[1], query.shape[3]
    if keys.stride() != values.stride() or keys.stride(3) != 1:
        raise ValueError("keys and values must lie alike in memory, each token's vector without gaps")
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    if not qkv.numel():
        return
    of_heads = (norms.query, norms.key, norms.eps) if norms else (None, None, 0.0)
    _rotate[batch * tokens, triton.cdiv(heads + 2 * kv_heads, HEADS)](
        qkv, cos, sin, query, keys, values, slots, *of_heads, tokens, tokens if len(cos) > 1 else 0,
        *query.stride()[:3], keys.stride(0), keys.stride(1), keys.stride(2),
        heads=heads, kv_heads=kv_heads, half=width // 2, padded=triton.next_power_of_2(width // 2),
        block=HEADS, num_warps=4, **overlapping(qkv),
    )  # fmt: skip


@triton.jit
def _rotate(
    qkv, cos, sin, query, keys, values, slots, query_norm, key_norm, eps, tokens, angle_stride,
    query_row, query_head, query_token, cache_row, cache_head, cache_slot,
    heads: tl.constexpr, kv_heads: tl.constexpr, half: tl.constexpr, padded: tl.constexpr,
    block: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    wait(early)
    line = tl.program_id(0)
    row, token = line // tokens, line % tokens
    head = tl.program_id(1) * block + tl.arange(0, block)
    every: tl.constexpr = heads + 2 * kv_heads
    d = tl.arange(0, padded)[None, :]
    inside = (head < every)[:, None] & (d < half)
    source = qkv + (line.to(tl.int64) * every + head[:, None]) * (2 * half) + d
    low = tl.load(source, mask=inside, other=0.0)
    high = tl.load(source + half, mask=inside, other=0.0)
    angle = (row * angle_stride + token) * (2 * half) + d
    low_cos = tl.load(cos + angle, mask=d < half, other=0.0).to(tl.float32)
    low_sin = tl.load(sin + angle, mask=d < half, other=0.0).to(tl.float32)
    high_cos = tl.load(cos + angle + half, mask=d < half, other=0.0).to(tl.float32)
    high_sin = tl.load(sin + angle + half, mask=d < half, other=0.0).to(tl.float32)
    wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
    if query_norm is not None:
        square = tl.sum(wide_low * wide_low + wide_high * wide_high, axis=1) / (2 * half)
        scale = tl.rsqrt(square + eps)[:, None]
        of_query = (head < heads)[:, None]
        for_low = tl.where(
            of_query,
            tl.load(query_norm + d, mask=d < half, other=0.0),
            tl.load(key_norm + d, mask=d < half, other=0.0),
        )
        for_high = tl.where(
            of_query,
            tl.load(query_norm + half + d, mask=d < half, other=0.0),
            tl.load(key_norm + half + d, mask=d < half, other=0.0),
        )
        # Rounded where the module rounds.
        dtype: tl.constexpr = qkv.dtype.element_ty
        wide_low = (wide_low * scale).to(dtype).to(tl.float32) * for_low.to(tl.float32)
        wide_high = (wide_high * scale).to(dtype).to(tl.float32) * for_high.to(tl.float32)
        wide_low, wide_high = wide_low.to(dtype).to(tl.float32), wide_high.to(dtype).to(tl.float32)
    turned_low = wide_low * low_cos - wide_high * low_sin
    turned_high = wide_high * high_cos + wide_low * high_sin

    slot = token.to(tl.int64)
    if slots is not None:
        slot = tl.load(slots + row).to(tl.int64)
    is_query = inside & (head < heads)[:, None]
    is_key = inside & ((head >= heads) & (head < heads + kv_heads))[:, None]
    is_value = inside & (head >= heads + kv_heads)[:, None]
    to_query = query + row.to(tl.int64) * query_row + head[:, None] * query_head + token * query_token + d
    place = row.to(tl.int64) * cache_row + slot * cache_slot + d
    to_key = keys + place + (head - heads)[:, None].to(tl.int64) * cache_head
    to_value = values + place + (head - heads - kv_heads)[:, None].to(tl.int64) * cache_head
    tl.store(to_query, turned_low.to(query.dtype.element_ty), mask=is_query)
    tl.store(to_query + half, turned_high.to(query.dtype.element_ty), mask=is_query)
    tl.store(to_key, turned_low.to(keys.dtype.element_ty), mask=is_key)
    tl.store(to_key + half, turned_high.to(keys.dtype.element_ty), mask=is_key)
    tl.store(to_value, low.to(values.dtype.element_ty), mask=is_value)
    tl.store(to_value + half, high.to(values.dtype.element_ty), mask=is_value)
