"""CLIP's activation."""

import torch
from torch import Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x); rounded once, at the end."""
    if not x.is_cuda:
        return quick_gelu_reference(x)
    from dyrate.kernels.device.quick_gelu import activate

    return activate(x)


def quick_gelu_reference(x: Tensor) -> Tensor:
    """Do the same with plain tensor operations."""
    wide = x.float()
    return (wide * torch.sigmoid(1.702 * wide)).to(x.dtype)
