"""The response log: what the model answered, batch by batch, so that a killed run goes on where it stopped.

JSON lines, append-only, one line per batch, on disk before the next batch starts. A line is found by the
content of its requests (weights, image, prompt, generation arguments, method and its code), so a changed
input is never answered from the log. A batch is the unit because its rows are computed together: it is reused
whole or not at all, and a resumed run makes the same batches as an undisturbed one.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NotRequired, Self, TypedDict

from loguru import logger

from dyrate.errors import DyrateError
from dyrate.evaluation.visual_tokens import TokenSums


class LoggedBatch(TypedDict):
    """One line of the log."""

    batch: str  # sha256 of the request keys
    keys: list[str]
    answers: list[str]
    tokens: NotRequired[TokenSums]  # absent for a batch without images


def content_key(*parts: bytes | str) -> str:
    """sha256 over the parts, each with its length, so that no two lists of parts give the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


class ResponseLog:
    """The log in one file, opened for appending; use it as a context manager."""

    def __init__(self, path: Path | None) -> None:
        """Lock the file and read what is there; without a path nothing is kept.

        A torn last line, left by a kill while writing, is cut off with a notice. Any other damage is a
        `DyrateError`, and so is another process that has the log open.
        """
        self.path = path
        self._batches: dict[str, LoggedBatch] = {}
        self._file: BinaryIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            try:
                _lock(path, self._file)
                self._file.truncate(self._read(path))
            except BaseException:
                self._file.close()
                raise

    def _read(self, path: Path) -> int:
        whole = 0
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                logger.warning("{}: dropped a torn last line; its batch is run again", path)
                break
            try:
                batch = _parse(line)
            except (ValueError, KeyError, TypeError) as error:
                raise DyrateError(
                    f"{path}: line {number} is damaged ({error}); remove the file to start again"
                ) from None
            self._batches[batch["batch"]] = batch
            whole += len(line)
        return whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._batches)

    def get(self, keys: Sequence[str]) -> LoggedBatch | None:
        """The logged batch of exactly these requests in this order, if there is one."""
        return self._batches.get(content_key(*keys))

    def append(self, keys: Sequence[str], answers: Sequence[str], tokens: TokenSums | None) -> LoggedBatch:
        """Write a batch; when this returns, it is on disk."""
        batch: LoggedBatch = {"batch": content_key(*keys), "keys": list(keys), "answers": list(answers)}
        if tokens is not None:
            batch["tokens"] = tokens
        if self._file is not None:
            self._file.write(json.dumps(batch, sort_keys=True).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._batches[batch["batch"]] = batch
        return batch


def _lock(path: Path, file: BinaryIO) -> None:
    """Keep other processes out until the file is closed, also by a kill."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DyrateError(
            f"{path}: another process is writing this log; wait for it, or choose another --output"
        ) from None


def _parse(line: bytes) -> LoggedBatch:
    batch: Any = json.loads(line)
    if batch["batch"] != content_key(*batch["keys"]) or len(batch["keys"]) != len(batch["answers"]):
        raise ValueError("its keys and its content disagree")
    parsed: LoggedBatch = batch
    return parsed
