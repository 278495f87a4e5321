"""Activations: CLIP's, and the gate of a SwiGLU block."""

import torch
from torch import Tensor
from torch.nn.functional import silu


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x); rounded once, at the end."""
    if x.is_cuda:
        from dyrate.kernels.device.activations import activate

        return activate(x)
    wide = x.float()
    return (wide * torch.sigmoid(1.702 * wide)).to(x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up, [..., f], of gate_up [..., 2f], the gate first; rounded once, at the end."""
    if gate_up.is_cuda:
        from dyrate.kernels.device.activations import gate

        return gate(gate_up)
    gates, up = gate_up.float().chunk(2, dim=-1)
    return (silu(gates) * up).to(gate_up.dtype)
