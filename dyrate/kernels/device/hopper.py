"""What GPUs from Hopper on can do: a kernel's programs start while those of the one before end.

What they do until `wait` costs no time then; it may read what no kernel writes, a weight, and nothing else.
(CUDA's name for it is programmatic dependent launch.)
"""
# mypy: ignore-errors

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor


def overlapping(x: Tensor) -> dict[str, bool]:
    """Return the options of such a launch on x's device, for a kernel that calls `wait(early)`."""
    early = is_hopper(x.device)
    return {"early": early, "launch_pdl": early}


@cache
def is_hopper(device: torch.device) -> bool:
    """Say whether it is a GPU of that kind, or newer; AMD's have numbers of their own."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait(early: tl.constexpr):
    """Let the next kernel's programs start, and wait until the kernel before has ended."""
    if early:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
