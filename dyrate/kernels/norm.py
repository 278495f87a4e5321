"""RMSNorm as Llama has it."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector of x [..., d] to a root mean square of 1, in float32, then by weight [d]."""
    if x.is_cuda:
        from dyrate.kernels.device.norm import normalise

        x = x.contiguous()
        out = torch.empty_like(x)
        normalise(x, None, weight, out, eps)
        return out
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (weight * scaled.to(x.dtype)).to(x.dtype)


def add_and_norm(x: Tensor, parts: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Do what `add_up` does, and return the RMSNorm of the sum [rows, d]."""
    if x.is_cuda:
        from dyrate.kernels.device.norm import normalise

        out = torch.empty_like(x)
        normalise(x, parts, weight, out, eps)
        return out
    add_up(x, parts)
    return rms_norm(x, weight, eps)


def add_up(x: Tensor, parts: Tensor) -> None:
    """Add parts (FloatTensor [n, rows, d]) to x [rows, d], in place: in float32, rounded once."""
    if x.is_cuda:
        from dyrate.kernels.device.norm import normalise

        normalise(x, parts)
    else:
        x.copy_(x.float() + parts.sum(dim=0))
