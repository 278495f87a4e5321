"""RMSNorm as Llama has it."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector of x [..., d] to a root mean square of 1, in float32, then by weight [d]."""
    if not x.is_cuda:
        return rms_norm_reference(x, weight, eps)
    from dyrate.kernels.device.norm import normalise

    return normalise(x, weight, eps)


def add_and_norm(x: Tensor, parts: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Do what `add_up` does, and return the RMSNorm of the sum [rows, d]."""
    if not x.is_cuda:
        add_up(x, parts)
        return rms_norm_reference(x, weight, eps)
    from dyrate.kernels.device.norm import add_and_normalise

    return add_and_normalise(x, parts, weight, eps)


def add_up(x: Tensor, parts: Tensor) -> None:
    """Add parts (FloatTensor [n, rows, d]) to x [rows, d], in place: in float32, rounded once."""
    if not x.is_cuda:
        add_up_reference(x, parts)
        return
    from dyrate.kernels.device.norm import add_parts

    add_parts(x, parts)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Do what `rms_norm` does with plain tensor operations."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (weight * scaled.to(x.dtype)).to(x.dtype)


def add_up_reference(x: Tensor, parts: Tensor) -> None:
    """Do what `add_up` does with plain tensor operations."""
    x.copy_(x.float() + parts.sum(dim=0))
