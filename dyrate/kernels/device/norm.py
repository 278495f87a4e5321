"""RMSNorm in Triton: a program for each vector."""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl
from torch import Tensor


def normalise(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return the RMSNorm of x [..., d] with weight [d]."""
    x = x.contiguous()
    d = x.shape[-1]
    out = torch.empty_like(x)
    block = triton.next_power_of_2(d)
    warps = min(16, max(1, block // 512))
    if x.numel():
        _normalise[(x.numel() // d,)](x, weight, out, eps, d, block=block, num_warps=warps)
    return out


@triton.jit
def _normalise(x, weight, out, eps, d, block: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * d
    at = tl.arange(0, block)
    inside = at < d
    wide = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    scaled = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / d + eps)
    # Rounded before the weight, as transformers does.
    scaled = scaled.to(x.dtype.element_ty).to(tl.float32)
    tl.store(out + start + at, (scaled * w).to(out.dtype.element_ty), mask=inside)
