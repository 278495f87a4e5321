"""Activations in Triton."""
# mypy: ignore-errors

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyrate.kernels.device.hopper import overlapping, wait

_NUMBERS, _OUTPUTS = 2048, 1024
"""Numbers that a program of `activate` makes, and outputs of one of `gate`."""


def activate(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x)."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if out.numel():
        _activate[(triton.cdiv(out.numel(), _NUMBERS),)](
            x, out, out.numel(), block=_NUMBERS, num_warps=8, **overlapping(x)
        )
    return out


@triton.jit
def _activate(x, out, count, block: tl.constexpr, early: tl.constexpr):
    wait(early)
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    wide = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * tl.sigmoid(1.702 * wide)).to(out.dtype.element_ty), mask=at < count)


def gate(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up of gate_up [..., 2f]."""
    gate_up = gate_up.contiguous()
    features = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], features)
    if out.numel():
        rows = out.numel() // features
        _gate[rows, triton.cdiv(features, _OUTPUTS)](
            gate_up, out, features, block=_OUTPUTS, num_warps=4, **overlapping(out)
        )
    return out


@triton.jit
def _gate(gate_up, out, features, block: tl.constexpr, early: tl.constexpr):
    wait(early)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < features
    g = tl.load(gate_up + row * 2 * features + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * features + features + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * features + at, (g * tl.sigmoid(g) * up).to(out.dtype.element_ty), mask=inside)
