"""The gate of a SwiGLU block."""

from torch import Tensor
from torch.nn.functional import silu


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up, [..., f], of gate_up [..., 2f], the gate first; rounded once, at the end."""
    if gate_up.is_cuda:
        from dyrate.kernels.device.swiglu import gate

        return gate(gate_up)
    gates, up = gate_up.float().chunk(2, dim=-1)
    return (silu(gates) * up).to(gate_up.dtype)
