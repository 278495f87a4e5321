"""Whether the source on disk is still that of the code that this process runs."""

from collections.abc import Iterable
from pathlib import Path

from dyrate.errors import DyrateError

Stamp = tuple[int, int, int]


def remember(files: Iterable[Path]) -> None:
    """Note the state of source files that are about to be imported; the first note of a file stands."""
    for path in files:
        _STAMPS.setdefault(path, _stamp(path))


def remembered(path: Path) -> bool:
    """Whether the file has been noted."""
    return path in _STAMPS


def check_unchanged(files: Iterable[Path]) -> None:
    """Raise `DyrateError` for a noted file that was written again since.

    A hash of it would be of other code than that which runs.
    """
    for path in files:
        if path in _STAMPS and _stamp(path) != _STAMPS[path]:
            raise DyrateError(
                f"{path} has changed since this process imported it, and the old code still runs: "
                "start a new process"
            )


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


_STAMPS: dict[Path, Stamp | None] = {}

# The package's modules are imported one by one, as they are needed: of what is edited after the first one,
# this process may run either version.
remember(Path(__file__).parent.rglob("*.py"))
