"""The response log: what the model answered, batch by batch, so that a killed run goes on where it stopped.

JSON lines, append-only, one line per batch, on disk before the next batch starts. A line is found by the
content of its requests (weights, image, prompt, generation arguments, method and its code), so a changed
input is never answered from the log. A batch is the unit because its rows are computed together: it is reused
whole or not at all, and a resumed run makes the same batches as an undisturbed one. Each line carries a hash
of all that it says, so that no other answer than the model's is ever scored.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, NotRequired, Self, TypedDict, cast

from loguru import logger

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.evaluation.visual_tokens import TokenSums

_VERSION = 2
_UNHASHED = {"batch", "keys", "answers"}  # what a line of version 1 had, and perhaps `tokens`


class LoggedBatch(TypedDict):
    """One line of the log, without its hash."""

    version: int
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

        A torn last line, left by a kill while writing, is cut off with a notice; lines of an older version
        are not reused, with a notice. Any other damage is a `DyrateError`, after which the file holds its
        sound lines only, and what it held stands beside it. Another process that has the log open is a
        `DyrateError`, too, and so is what is no regular file.
        """
        self.path = path
        self._batches: dict[str, LoggedBatch] = {}
        self._file: int | None = None
        if path is not None:
            with files.writable(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = files.open_own(path)
            try:
                files.lock(
                    self._file,
                    f"{path}: another process is writing this log; wait for it, or choose another --output",
                )
                os.ftruncate(self._file, self._read(path))
            except BaseException:
                self.close()
                raise

    def _read(self, path: Path) -> int:
        """Take in the lines; return how many bytes of them are whole."""
        lines = files.read_bytes(path).splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            logger.warning("{}: dropped a torn last line; its batch is run again", path)
            lines.pop()
        sound: list[bytes] = []
        contradicted: set[str] = set()
        old, damage = 0, ""
        for number, line in enumerate(lines, start=1):
            try:
                batch = _parse(line)
                if batch is None:
                    old += 1
                    continue
                if self._batches.setdefault(batch["batch"], batch) != batch:
                    contradicted.add(batch["batch"])
                    raise ValueError("it contradicts an earlier line on the same batch")  # noqa: TRY301
                sound.append(line)
            except (ValueError, KeyError, TypeError) as error:
                damage = damage or f"line {number} is damaged ({error})"
        if old:
            logger.warning("{}: {} batches of an older version are run again", path, old)
        if damage:
            sound = [line for line in sound if cast(LoggedBatch, _parse(line))["batch"] not in contradicted]
            _mend(path, b"".join(lines), b"".join(sound), damage)
        return sum(map(len, lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which lets other processes have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __len__(self) -> int:
        return len(self._batches)

    def get(self, keys: Sequence[str]) -> LoggedBatch | None:
        """The logged batch of exactly these requests in this order, if there is one."""
        return self._batches.get(content_key(*keys))

    def take_in(self, path: Path) -> None:
        """Know what the log in another file says, which another process may be writing; nothing is written.

        Lines that are damaged there are not known here, with a notice.
        """
        damaged = 0
        for line in files.read_bytes(path).splitlines():
            try:
                batch = _parse(line)
            except (ValueError, KeyError, TypeError):
                damaged += 1
                continue
            if batch is not None:
                self._batches.setdefault(batch["batch"], batch)
        if damaged:
            logger.warning("{}: {} damaged lines are not used; their batches are run again", path, damaged)

    def append(self, keys: Sequence[str], answers: Sequence[str], tokens: TokenSums | None) -> LoggedBatch:
        """Write a batch; when this returns, it is on disk. A `DyrateError` where that cannot be done."""
        batch: LoggedBatch = {
            "version": _VERSION,
            "batch": content_key(*keys),
            "keys": list(keys),
            "answers": list(answers),
        }
        if tokens is not None:
            batch["tokens"] = tokens
        if self._file is not None and self.path is not None:
            line = json.dumps({**batch, "sha256": _hash(batch)}, sort_keys=True).encode() + b"\n"
            with files.writable(self.path):
                while line:
                    line = line[os.write(self._file, line) :]
                os.fsync(self._file)
        self._batches[batch["batch"]] = batch
        return batch


def _mend(path: Path, found: bytes, sound: bytes, damage: str) -> NoReturn:
    """Keep the sound lines, set what was found aside, and say so as a `DyrateError`."""
    aside = path.with_name(f"{path.name}.damaged")
    for target, content in ((aside, found), (path, sound)):
        with files.replacing(target) as temporary:
            temporary.write_bytes(content)
    raise DyrateError(
        f"{path}: {damage}; the file was set aside as {aside.name}. Give the same command again: what is "
        "damaged is run again, and the rest is reused"
    )


def _hash(batch: LoggedBatch) -> str:
    return content_key(json.dumps(batch, sort_keys=True))


def _parse(line: bytes) -> LoggedBatch | None:
    """The batch of a line; None if it is of the version without a hash; a ValueError if it is damaged."""
    batch: Any = files.parse_json(line.decode(), "the line")
    if not isinstance(batch, dict):
        raise ValueError(f"it holds a {type(batch).__name__}")  # noqa: TRY004 - as any other damage
    if _UNHASHED <= batch.keys() <= _UNHASHED | {"tokens"}:
        return None
    if batch.pop("sha256", None) != _hash(cast(LoggedBatch, batch)):
        raise ValueError("its content is not what was written: the hash differs")
    if batch["version"] != _VERSION:
        raise ValueError(f"its version is {batch['version']!r}; this dyrate reads version {_VERSION}")
    return cast(LoggedBatch, batch)
