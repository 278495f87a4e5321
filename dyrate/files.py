"""Files that are written whole or not at all, and JSON that is read strictly."""

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import stat
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
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666), "wb") as stream:
            lock(stream.fileno(), f"{path}: another process is writing this file")
            try:
                yield temporary
                os.fsync(stream.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    for left in path.parent.glob(
        f".{glob.escape(path.name)}.*.tmp"
    ):  # by a version that named them after processes
        left.unlink(missing_ok=True)


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
    getattr(errno, f"E{name}")
    for name in "NOSPC DQUOT ROFS ACCES PERM NAMETOOLONG NOTDIR ISDIR EXIST LOOP FBIG IO".split()  # noqa: SIM905
)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically, its keys in order; a number that is not finite is a ValueError."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def make_folder(output: Path) -> None:
    """Make the folder of `--output`; a `DyrateError` where a file is in the way or writing is forbidden."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DyrateError(f"--output {output}: cannot be made a folder: {error.strerror}") from None


@contextmanager
def only_one(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs; a kill lets them in again.

    Raises `DyrateError` where another process is in such a block: `doing` is what it does.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(descriptor, f"{folder}: another process is {doing}; wait for it, or choose another --output")
        yield
    finally:
        os.close(descriptor)


def open_own(path: Path) -> int:
    """Open a file that only this package writes, for reading and appending; made where there is none.

    Returns the descriptor. Raises `DyrateError` for what stands there and is no file: a folder, a pipe, or a
    link, which would lead out of the results.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DyrateError(f"{path} is a link, and is not followed; remove it") from None
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise DyrateError(f"{path} is no regular file; remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DyrateError(f"{path} is no regular file; remove it")
    return descriptor


def lock(descriptor: int, otherwise: str) -> None:
    """Lock an open file until it is closed, also by a kill; `DyrateError` says `otherwise` if it is taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DyrateError(otherwise) from None


def digest(data: bytes) -> str:
    """sha256, as files name each other's content."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: Path, kind: type[DyrateError] = DyrateError) -> bytes:
    """Read a file; an error of that kind names it where that cannot be done, or might never end."""
    try:
        if stat.S_ISFIFO(path.stat().st_mode):
            raise kind(f"{path}: cannot be read: it is a pipe")
        return path.read_bytes()
    except FileNotFoundError:
        raise kind(f"{path}: no such file") from None
    except OSError as error:
        raise kind(f"{path}: cannot be read: {error.strerror}") from None


def read_json(path: Path, kind: type[DyrateError] = DyrateError) -> Any:
    """Read a JSON file strictly (see `parse_json`); an error of that kind names the file."""
    data = read_bytes(path, kind)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise kind(f"{path}: not JSON: {error}") from None
    return parse_json(text, str(path), kind)


def parse_json(text: str, source: str, kind: type[DyrateError] = DyrateError) -> Any:
    """Parse JSON that says each thing once, in finite numbers; an error of that kind names `source`."""
    try:
        return json.loads(
            text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError) as error:
        raise kind(f"{source}: not JSON: {error}") from None


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
