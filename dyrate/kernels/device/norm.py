"""RMSNorm in Triton: a program for each vector."""
# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor

from dyrate.kernels.device.hopper import overlapping, wait


def normalise(
    x: Tensor, parts: Tensor | None = None, weight: Tensor | None = None, out: Tensor | None = None, eps=0.0
) -> None:
    """Add parts [n, rows, d] to x [rows, d] in place; with a weight [d], write the RMSNorm of that to out."""
    if not x.is_contiguous() or not (parts is None or parts.is_contiguous()):
        raise ValueError("vectors and what is added to them must lie in memory without gaps")
    d = x.shape[-1]
    block = triton.next_power_of_2(d)
    warps = min(16, max(1, block // 512))
    if x.numel():
        count = 0 if parts is None else len(parts)
        _normalise[(x.numel() // d,)](
            x,
            parts,
            weight,
            out,
            eps,
            x.numel(),
            d,
            count=count,
            block=block,
            num_warps=warps,
            **overlapping(x),
        )


@triton.jit
def _normalise(
    x, parts, weight, out, eps, numel, d, count: tl.constexpr, block: tl.constexpr, early: tl.constexpr
):
    wait(early)
    start = tl.program_id(0).to(tl.int64) * d
    at = tl.arange(0, block)
    inside = at < d
    wide = tl.load(x + start + at, mask=inside, other=0.0).to(tl.float32)
    if parts is not None:
        for part in tl.static_range(count):
            wide += tl.load(parts + part * numel + start + at, mask=inside, other=0.0)
        wide = wide.to(x.dtype.element_ty).to(tl.float32)
        tl.store(x + start + at, wide.to(x.dtype.element_ty), mask=inside)
    if weight is not None:
        w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
        scaled = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / d + eps)
        # Rounded before the weight, as transformers does.
        scaled = scaled.to(x.dtype.element_ty).to(tl.float32)
        tl.store(out + start + at, (scaled * w).to(out.dtype.element_ty), mask=inside)
