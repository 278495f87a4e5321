"""Slot lists on the device."""
# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _list(keep, visual, chosen, count, tokens, slots, block: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, block)
    token = tl.load(visual + row * slots + at, mask=at < slots, other=-1)
    kept = tl.load(keep + row * tokens + token, mask=token >= 0, other=0) != 0
    place = tl.cumsum(kept.to(tl.int32), axis=0)
    tl.store(chosen + row * slots + place - 1, at, mask=kept)
    tl.store(count + row, tl.sum(kept.to(tl.int32), axis=0))


def list_slots(keep: Tensor, visual: Tensor, chosen: Tensor, count: Tensor) -> None:
    """Fill `chosen` and `count` as `compact` says."""
    rows, slots = visual.shape
    block = triton.next_power_of_2(slots)
    _list[(rows,)](keep.contiguous(), visual, chosen, count, keep.shape[1], slots, block=block, num_warps=4)
