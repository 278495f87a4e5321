"""One thread at a time: a `with` block has one state, which two generations at once would overwrite."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Thread, current_thread
from time import monotonic, sleep

from dyrate.errors import DyrateError

_PATIENCE = 5.0
"""Seconds that leaving a block waits for a generation that another thread is about to end."""


class Turn:
    """Says which thread's generation or forward is under way in a block, and refuses all others meanwhile."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[str, Thread] = {}
        """By what it runs, "generate" or "forward": the thread."""

    def begin(self, work: str) -> None:
        """Let this thread run `work`; raise `DyrateError` while another thread runs anything."""
        with self._lock:
            other = self._other()
            if other is not None:
                raise DyrateError(
                    f"thread {other.name!r} is generating in this with block, and a block serves one "
                    f"generation at a time: {current_thread().name!r} must wait, or use a model and a block "
                    "of its own"
                )
            self._running[work] = current_thread()

    def end(self, work: str) -> None:
        """Say that this thread has finished `work`; nothing happens if it was refused."""
        with self._lock:
            if self._running.get(work) is current_thread():
                del self._running[work]

    @contextmanager
    def taken(self, work: str) -> Iterator[None]:
        """Run `work`, to its end or its error."""
        self.begin(work)
        try:
            yield
        finally:
            self.end(work)

    def wait(self) -> Thread | None:
        """Wait for other threads, but not for long; return one that is still at work, None if there is none.

        A thread that streams has handed over its last token a moment before it is done.
        """
        end = monotonic() + _PATIENCE
        while (other := self._other()) is not None and monotonic() < end:
            sleep(0.01)
        return other

    def _other(self) -> Thread | None:
        others = (thread for thread in list(self._running.values()) if thread is not current_thread())
        return next((thread for thread in others if thread.is_alive()), None)
