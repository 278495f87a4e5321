"""Batches that are made ready while those before them are answered."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_SWITCH = 0.0005
"""Seconds after which a thread that computes lets go of the interpreter: the device waits for the others."""
Item = TypeVar("Item")
Ready = TypeVar("Ready")


def made_ahead(
    make: Callable[[Item], Ready], items: Sequence[Item], threads: int
) -> Generator[Ready, None, None]:
    """Yield what `make` makes of each item, in order; some threads are that many items ahead, and one more.

    What `make` raises comes when its item's turn does, and then nothing more is begun. Without threads each
    item is made when it is asked for.
    """
    if not threads:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(threads, "dyrate-ahead")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(min(interval, _SWITCH))
    waiting: deque[Future[Ready]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        sys.setswitchinterval(interval)
