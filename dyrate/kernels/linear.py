"""A linear layer with its surroundings in a Llama block: the norm before it, gate and residual after it."""

import torch
from torch import Tensor
from torch.nn.functional import linear as plain_linear

from dyrate.kernels.activations import swiglu
from dyrate.kernels.norm import rms_norm

FUSED_ROWS = 8
"""Up to this many rows one kernel reads the weight once and does everything; above it cuBLAS is faster."""


def linear(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    gated: bool = False,
) -> Tensor:
    """Return norm(x) @ weight.T + bias, gated or not, plus residual: [rows, f].

    x [rows, d], weight [f, d], bias [f], norm [d] (weight of an RMSNorm of `eps` that x goes through first),
    residual [rows, f], which may be overwritten. `gated`: weight is [2f, d] and bias [2f], the gate's rows
    first; the result is silu(gate) * up. Sums are in float32; the fused kernel rounds once, at the end, the
    composition after each part.
    """
    if x.is_cuda and 0 < len(x) <= FUSED_ROWS:
        from dyrate.kernels.device.linear import fused_linear

        return fused_linear(x, weight, bias=bias, norm=norm, eps=eps, residual=residual, gated=gated)
    if norm is not None:
        x = rms_norm(x, norm, eps)
    if residual is not None and bias is None and not gated:
        return torch.addmm(residual, x, weight.t(), out=residual)
    out = plain_linear(x, weight, bias)
    if gated:
        out = swiglu(out)
    return out if residual is None else out + residual
