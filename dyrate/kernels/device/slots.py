"""Slots in Triton: a program copies some tokens of one head, or lists the slots of a row."""
# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor

_TOKENS = 32
_LISTED = 4096
"""Slots that are listed at a time: long rows would not fit into registers."""


def copy_tokens(
    keys: Tensor, values: Tensor, columns: Tensor, visual: int, to_keys: Tensor, to_values: Tensor, first: int
) -> None:
    """Do what `store` does, in one kernel."""
    batch, heads, _, width = keys.shape
    count = columns.shape[1]
    if keys.stride() != values.stride() or to_keys.stride() != to_values.stride():
        raise ValueError("keys and values must lie alike in memory")
    if keys.stride(3) != 1 or to_keys.stride(3) != 1:
        raise ValueError("each token's vector must lie without gaps")
    if count:
        _copy[(triton.cdiv(count, _TOKENS), heads, batch)](
            keys, values, columns.contiguous(), to_keys, to_values, visual, first - visual, count, width,
            *keys.stride()[:3], *to_keys.stride()[:3],
            tokens=_TOKENS, padded=triton.next_power_of_2(width), num_warps=4,
        )  # fmt: skip


@triton.jit
def _copy(
    keys, values, columns, to_keys, to_values, visual, gap, count, width,
    from_row, from_head, from_token, to_row, to_head, to_token,
    tokens: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * tokens + tl.arange(0, tokens)
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    column = tl.load(columns + row * count + at, mask=at < count, other=0)
    slot = tl.where(at < visual, at, at + gap).to(tl.int64)
    d = tl.arange(0, padded)
    inside = (at < count)[:, None] & (d < width)[None, :]
    source = row * from_row + head * from_head + column[:, None] * from_token + d[None, :]
    target = row * to_row + head * to_head + slot[:, None] * to_token + d[None, :]
    tl.store(to_keys + target, tl.load(keys + source, mask=inside, other=0.0), mask=inside)
    tl.store(to_values + target, tl.load(values + source, mask=inside, other=0.0), mask=inside)


def list_slots(keep: Tensor, visual: Tensor, chosen: Tensor, count: Tensor) -> None:
    """Fill `chosen` and `count` as `compact` says."""
    rows, slots = visual.shape
    block = min(_LISTED, triton.next_power_of_2(slots))
    _list[(rows,)](
        keep.contiguous(), visual, chosen, count, keep.shape[1], slots,
        block=block, num_warps=max(4, block // 256),
    )  # fmt: skip


@triton.jit
def _list(keep, visual, chosen, count, tokens, slots, block: tl.constexpr):
    row = tl.program_id(0)
    listed = tl.zeros([], dtype=tl.int32)
    for first in range(0, slots, block):
        at = first + tl.arange(0, block)
        token = tl.load(visual + row * slots + at, mask=at < slots, other=-1)
        kept = tl.load(keep + row * tokens + token, mask=token >= 0, other=0) != 0
        place = listed + tl.cumsum(kept.to(tl.int32), axis=0)
        tl.store(chosen + row * slots + place - 1, at, mask=kept)
        listed += tl.sum(kept.to(tl.int32), axis=0)
    tl.store(count + row, listed)
