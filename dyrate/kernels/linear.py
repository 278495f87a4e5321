"""A linear layer with its surroundings in a Llama block: the norm before it, gate and residual after it."""

import torch
from torch import Tensor
from torch.nn.functional import linear as plain_linear

from dyrate.kernels.activations import swiglu
from dyrate.kernels.norm import rms_norm

FUSED_ROWS = 8
"""Up to this many rows one kernel does everything, the norm too."""
TILED_ROWS = 32
"""Up to this many one does all but the norm, on a GPU whose programs have room for it; above it cuBLAS is
faster."""
_ROOM = 180_000
"""Bytes of shared memory that its programs may ask for: H100 and H200 have them, an A100 has not."""


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
    first; the result is silu(gate) * up. Sums are in float32; a fused kernel rounds once, at its end, the
    composition after each part.
    """
    fused = x.is_cuda and 0 < len(x) <= FUSED_ROWS
    if norm is not None and not fused:
        x, norm = rms_norm(x, norm, eps), None
    if fused or tiled(x):
        from dyrate.kernels.device.linear import fused_linear

        return fused_linear(x, weight, bias=bias, norm=norm, eps=eps, residual=residual, gated=gated)
    if residual is not None and bias is None and not gated:
        return torch.addmm(residual, x, weight.t(), out=residual)
    out = plain_linear(x, weight, bias)
    if gated:
        out = swiglu(out)
    return out if residual is None else out + residual


def tiled(x: Tensor) -> bool:
    """Say whether this package's own kernel multiplies x [rows, d], of more rows than `FUSED_ROWS`."""
    if not x.is_cuda or x.dtype == torch.float32 or not FUSED_ROWS < len(x) <= TILED_ROWS:
        return False
    room: int = getattr(torch.cuda.get_device_properties(x.device), "shared_memory_per_block_optin", 0)
    return room >= _ROOM
