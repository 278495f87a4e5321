"""CLIP's activation in Triton: one pass instead of three."""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
"""Numbers of a program."""


def activate(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x)."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if out.numel():
        _activate[(triton.cdiv(out.numel(), BLOCK),)](x, out, out.numel(), block=BLOCK, num_warps=8)
    return out


@triton.jit
def _activate(x, out, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    wide = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * tl.sigmoid(1.702 * wide)).to(out.dtype.element_ty), mask=at < count)
