"""CLIP's activation."""

import torch
from torch import Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x); rounded once, at the end."""
    if x.is_cuda:
        from dyrate.kernels.device.quick_gelu import activate

        return activate(x)
    wide = x.float()
    return (wide * torch.sigmoid(1.702 * wide)).to(x.dtype)
