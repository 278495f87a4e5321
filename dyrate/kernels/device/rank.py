"""Ranking in Triton: a token's rank is the number of better ones, counted; no sort, one launch."""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl
from torch import Tensor

_MINE, _OTHERS = 16, 1024
"""Tokens that a program ranks, and those that it compares them with at a time."""


def best(scores: Tensor, counts: Tensor) -> Tensor:
    """Return the mask that `top` returns."""
    scores = scores.contiguous()
    rows, width = scores.shape
    keep = torch.empty(rows, width, dtype=torch.bool, device=scores.device)
    grid = (triton.cdiv(width, _MINE), rows)
    others = min(_OTHERS, triton.next_power_of_2(width))
    _best[grid](scores, counts.contiguous(), keep, width, mine=_MINE, others=others, num_warps=4)
    return keep


@triton.jit
def _best(scores, counts, keep, width, mine: tl.constexpr, others: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    me = tl.program_id(0) * mine + tl.arange(0, mine)
    own = tl.load(scores + row * width + me, mask=me < width, other=float("-inf"))
    better = tl.zeros([mine], dtype=tl.int32)
    for first in range(0, width, others):
        other = first + tl.arange(0, others)
        theirs = tl.load(scores + row * width + other, mask=other < width, other=float("-inf"))
        ahead = (theirs[None, :] > own[:, None]) | (
            (theirs[None, :] == own[:, None]) & (other[None, :] < me[:, None])
        )
        better += tl.sum((ahead & (other < width)[None, :]).to(tl.int32), axis=1)
    wanted = better < tl.load(counts + row)
    tl.store(keep + row * width + me, wanted & (own > float("-inf")), mask=me < width)
