"""Files that are written whole or not at all, and JSON that is read strictly."""

import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dyrate.errors import DyrateError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written to it becomes `path` if the block ends well.

    The temporary file is named after `path`, so that what a killed process left is overwritten by the next
    one, and is locked against a second process. Raises `DyrateError` for what the file system refuses: a full
    disk, a read-only folder, a name that is too long, a folder in the file's place.
    """
    temporary = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.tmp")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DyrateError(f"{path}: another process is writing this file") from None
            try:
                yield temporary
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what the file system says against writing `path` into a `DyrateError` of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            raise DyrateError(f"{path} cannot be written: {error.strerror}") from None
        raise


_REFUSALS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
    + (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EFBIG, errno.EIO)
)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically, its keys in order; a number that is not finite is a ValueError."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file strictly (see `parse_json`); a `DyrateError` names the file, and what is wrong."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise DyrateError(f"{path}: no such file") from None
    except OSError as error:
        raise DyrateError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DyrateError(f"{path} is not JSON: {error}") from None
    return parse_json(text, str(path))


def parse_json(text: str, source: str) -> Any:
    """Parse JSON that says each thing once, in finite numbers; a `DyrateError` names `source`."""
    try:
        return json.loads(
            text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError) as error:
        raise DyrateError(f"{source} is not JSON: {error}") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON")
    return value


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands there twice")
        found[key] = value
    return found
