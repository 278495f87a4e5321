"""Ranking in Triton: a program finds the score of a row's last one in, bit by bit; no sort, one launch."""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl
from torch import Tensor


def best(scores: Tensor, counts: Tensor, among: Tensor | None) -> Tensor:
    """Return the mask that `top` returns."""
    scores, counts = scores.float().contiguous(), counts.contiguous()
    among = None if among is None else among.contiguous()
    rows, width = scores.shape
    keep = torch.empty(rows, width, dtype=torch.bool, device=scores.device)
    block = triton.next_power_of_2(width)
    warps = min(16, max(1, block // 256))
    _best[(rows,)](scores, counts, among, keep, width, block=block, num_warps=warps)
    return keep


@triton.jit
def _best(scores, counts, among, keep, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    score = tl.load(scores + row * width + at, mask=at < width, other=-float("inf"))
    if among is not None:
        allowed = tl.load(among + row * width + at, mask=at < width, other=0)
        score = tl.where(allowed != 0, score, -float("inf"))
    wanted = tl.load(counts + row)
    # Unsigned integers in the order of the floats; both zeros are one.
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)
    order = tl.where(at < width, order, 0)
    # The largest number that as many as are wanted reach is the score of the last of them.
    last = tl.zeros([], dtype=tl.uint32)
    for bit in tl.static_range(32):
        higher = last | (1 << (31 - bit))
        reached = tl.sum((order >= higher).to(tl.int32), axis=0)
        last = tl.where(reached >= wanted, higher, last)
    better = order > last
    equal = order == last
    left = wanted - tl.sum(better.to(tl.int32), axis=0)
    chosen = better | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= left))
    tl.store(keep + row * width + at, chosen & (score > -float("inf")), mask=at < width)
