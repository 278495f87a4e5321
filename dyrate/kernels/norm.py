"""RMSNorm as Llama has it."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector of x [..., d] to a root mean square of 1, in float32, then by weight [d]."""
    if not x.is_cuda:
        return rms_norm_reference(x, weight, eps)
    from dyrate.kernels.device.norm import normalise

    return normalise(x, weight, eps)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Do the same with plain tensor operations."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (weight * scaled.to(x.dtype)).to(x.dtype)
