"""Which GPU a process takes: one that no other has, of those that it may see."""

import atexit
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dyrate.errors import DyrateError

_PAUSE = 1.0  # seconds between looks for one that is free
_held: dict[str, IO[str]] = {}
"""By the GPU's identity, the open lock of this process: the system frees it however the process ends."""


def visible() -> list[str]:
    """Return the GPUs that torch sees, by what identifies them on this machine whatever is hidden."""
    import torch

    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]


def take(identities: Sequence[str], folder: Path | None = None) -> int:
    """Return the place in `identities` of a GPU that is this process's to the end: again the one that it has,
    else the first that no process holds; wait for one where all are held.

    Two jobs of a study that share a machine so have two GPUs. It binds those that ask, and nobody else: a
    device that is given by its number is not asked for.

    Args:
        identities: what identifies each, the same in all processes.
        folder: of the locks (default: the user's own, in the system's folder for temporary files).

    Raises `DyrateError` where no lock can be written.
    """
    for index, identity in enumerate(identities):
        if identity in _held:
            return index
    folder = folder or Path(tempfile.gettempdir()) / f"dyrate-gpus-{os.getuid()}"
    told = False
    while True:
        for index, identity in enumerate(identities):
            if _lock(folder, identity):
                return index
        if not told:
            holders = ", ".join(_holder(folder, identity) for identity in identities)
            sys.stderr.write(f"waiting for a GPU: held by {holders}\n")
            told = True
        time.sleep(_PAUSE)


def take_all(identities: Sequence[str], folder: Path | None = None) -> None:
    """Take each of them, as `take` does, for a model that is spread over all; one after another in the same
    order in all processes, so that no two wait for each other.
    """
    for identity in sorted(identities):
        take([identity], folder)


def release() -> None:
    """Give back what this process holds."""
    for file in _held.values():
        file.close()
    _held.clear()


atexit.register(release)


def _lock(folder: Path, identity: str) -> bool:
    path = folder / f"{identity}.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise DyrateError(
            f"{path}: cannot be written: {error.strerror}; it says which process has a GPU. Name another "
            "folder for temporary files in TMPDIR, or the GPU itself: --device cuda:0"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()}")
    file.flush()
    _held[identity] = file
    return True


def _holder(folder: Path, identity: str) -> str:
    return (folder / f"{identity}.lock").read_text(encoding="utf-8") or "a process that is just starting"
