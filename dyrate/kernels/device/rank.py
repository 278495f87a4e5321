"""Ranking in Triton: a program finds the score of a row's last one in, bit by bit; no sort, one launch."""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIECE = 16384
"""Scores of a row that a program holds at a time: more take a minute to compile and leave the registers."""


def best(scores: Tensor, counts: Tensor, among: Tensor | None, piece: int = _PIECE) -> Tensor:
    """Return the mask that `top` returns; `piece` is a power of two."""
    scores, counts = scores.float().contiguous(), counts.contiguous()
    among = None if among is None else among.contiguous()
    rows, width = scores.shape
    keep = torch.empty(rows, width, dtype=torch.bool, device=scores.device)
    block = min(piece, triton.next_power_of_2(width))
    warps = min(16, max(1, block // 256))
    pieces = triton.next_power_of_2(triton.cdiv(width, block))
    _best[(rows,)](scores, counts, among, keep, width, block=block, pieces=pieces, num_warps=warps)
    return keep


@triton.jit
def _best(scores, counts, among, keep, width, block: tl.constexpr, pieces: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(counts + row)
    # The largest number that as many as are wanted reach is the score of the last of them.
    last = tl.zeros([], dtype=tl.uint32)
    for bit in tl.static_range(32):
        higher = last | (1 << (31 - bit))
        reached = tl.zeros([], dtype=tl.int32)
        for piece in range(pieces):
            order = _order(scores, among, row, width, piece, block)
            reached += tl.sum((order >= higher).to(tl.int32), axis=0)
        last = tl.where(reached >= wanted, higher, last)
    left = wanted
    for piece in range(pieces):
        left -= tl.sum((_order(scores, among, row, width, piece, block) > last).to(tl.int32), axis=0)
    for piece in range(pieces):
        order = _order(scores, among, row, width, piece, block)
        equal = (order == last).to(tl.int32)
        chosen = (order > last) | ((equal != 0) & (tl.cumsum(equal, axis=0) <= left))
        left -= tl.sum(equal, axis=0)
        at = piece * block + tl.arange(0, block)
        tl.store(keep + row * width + at, chosen & (order > 0), mask=at < width)


@triton.jit
def _order(scores, among, row, width, piece, block: tl.constexpr):
    """Return a piece of a row's scores as unsigned integers in the order of the floats, 0 for what cannot be
    chosen.
    """
    at = piece * block + tl.arange(0, block)
    score = tl.load(scores + row * width + at, mask=at < width, other=-float("inf"))
    if among is not None:
        allowed = tl.load(among + row * width + at, mask=at < width, other=0)
        score = tl.where(allowed != 0, score, -float("inf"))
    # Both zeros are one.
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)
    return tl.where(score > -float("inf"), order, 0)
