"""A kernel's programs may start while those of the one before end (programmatic dependent launch, Hopper).

What they do until `wait` costs no time then; it may read what no kernel writes, a weight, and nothing else.
"""
# mypy: ignore-errors

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor


def overlapping(x: Tensor) -> dict[str, bool]:
    """Return the options of such a launch on x's device, for a kernel that calls `wait(early)`."""
    early = _supported(x.device)
    return {"early": early, "launch_pdl": early}


@cache
def _supported(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait(early: tl.constexpr):
    """Let the next kernel's programs start, and wait until the kernel before has ended."""
    if early:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
