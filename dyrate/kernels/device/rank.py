"""Ranking in Triton: a token's rank is the number of better ones, counted; no sort, one launch."""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64


def best(scores: Tensor, counts: Tensor) -> Tensor:
    """Return the mask that `top` returns."""
    scores = scores.contiguous()
    rows, width = scores.shape
    keep = torch.empty(rows, width, dtype=torch.bool, device=scores.device)
    grid = (triton.cdiv(width, _BLOCK), rows)
    _best[grid](scores, counts.contiguous(), keep, width, block=_BLOCK, num_warps=4)
    return keep


@triton.jit
def _best(scores, counts, keep, width, block: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    mine = tl.program_id(0) * block + tl.arange(0, block)
    own = tl.load(scores + row * width + mine, mask=mine < width, other=float("-inf"))
    better = tl.zeros([block], dtype=tl.int32)
    for first in range(0, width, block):
        other = first + tl.arange(0, block)
        theirs = tl.load(scores + row * width + other, mask=other < width, other=float("-inf"))
        ahead = (theirs[None, :] > own[:, None]) | (
            (theirs[None, :] == own[:, None]) & (other[None, :] < mine[:, None])
        )
        better += tl.sum((ahead & (other < width)[None, :]).to(tl.int32), axis=1)
    wanted = better < tl.load(counts + row)
    tl.store(keep + row * width + mine, wanted & (own > float("-inf")), mask=mine < width)
