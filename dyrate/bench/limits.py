"""What the device can do at best, measured beside everything else: memory bandwidth and matrix products."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

_ROUNDS = 7


@dataclass(frozen=True)
class Limits:
    """The best of a few rounds."""

    bytes_per_second: float
    """Of reading one large tensor and writing another: both counted."""
    flops_per_second: float
    """Of a large square matrix product, two per multiply-accumulate."""


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """Copy a large tensor, multiply large matrices."""
    large = device.type == "cuda"
    numbers = (1 << 30 if large else 1 << 26) // dtype.itemsize
    source = torch.ones(numbers, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copying = _best(lambda: target.copy_(source), device)
    side = 8192 if large else 1024
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(one)
    multiplying = _best(lambda: torch.mm(one, other, out=product), device)
    return Limits(2 * numbers * dtype.itemsize / copying, 2 * side**3 / multiplying)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(act: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        synchronise(device)
        started = perf_counter()
        act()
        synchronise(device)
        seconds.append(perf_counter() - started)
    return min(seconds)
