"""SwiGLU's gate in Triton."""
# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Outputs of a program."""


def gate(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up of gate_up [..., 2f]."""
    gate_up = gate_up.contiguous()
    features = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], features)
    if out.numel():
        rows = out.numel() // features
        _gate[rows, triton.cdiv(features, BLOCK)](gate_up, out, features, block=BLOCK, num_warps=4)
    return out


@triton.jit
def _gate(gate_up, out, features, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < features
    g = tl.load(gate_up + row * 2 * features + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * features + features + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * features + at, (g * tl.sigmoid(g) * up).to(out.dtype.element_ty), mask=inside)
