"""Batches that are made ready while those before them are answered."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")


def made_ahead(make: Callable[[Item], Ready], items: Sequence[Item], threads: int) -> Generator[Ready, None, None]:
    """Yield what `make` makes of each item, in order; some threads are that many items ahead, and one more.

    What `make` raises comes when its item's turn does, and then nothing more is begun. Without threads each
    item is made when it is asked for.
    """
    if not threads:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="dyrate-ahead")
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
