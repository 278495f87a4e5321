"""Capturing a CUDA graph."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def captured(stream: torch.cuda.Stream, pool: Any) -> Iterator[torch.cuda.CUDAGraph]:
    """Capture the work that the body gives the device into a graph, in memory of `pool`; none of it runs."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    # Engines that were given up wait in cycles for the collector, and a graph that is freed during a capture
    # spoils it.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool)
            try:
                yield graph
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()
