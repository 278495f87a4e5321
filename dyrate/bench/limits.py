"""What the device can do at best, measured beside everything else: memory bandwidth and matrix products."""

from collections.abc import Callable
from time import perf_counter

import torch

from dyrate.speed.documents import Limits

_ROUNDS = 7


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """Copy a large tensor, multiply large matrices; the best of a few rounds."""
    large = device.type == "cuda"
    numbers = (1 << 30 if large else 1 << 26) // dtype.itemsize
    source = torch.ones(numbers, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copying = _best(lambda: target.copy_(source), device)
    side = 8192 if large else 1024
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(one)
    multiplying = _best(lambda: torch.mm(one, other, out=product), device)
    return Limits(
        bytes_per_second=2 * numbers * dtype.itemsize / copying, flops_per_second=2 * side**3 / multiplying
    )


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
