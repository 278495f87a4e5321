"""Other people's code: imported with an error of one line where that fails, and known by what was imported.

Nothing can be done about an import that ends the process by `os._exit`, or by a signal.
"""

import importlib
import importlib.util
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import FrameType, ModuleType

from dyrate.errors import DyrateError
from dyrate.imports import local_closure
from dyrate.loaded import check_unchanged, remember, remembered

NOTICE, LIMIT = 5, 60
"""Seconds after which an import that is not done yet is reported, again and again, and given up."""


class _TooLongError(BaseException):
    """No `Exception`: what is being imported must not catch it."""


def import_file(path: Path) -> ModuleType:
    """Import a file once per process; a `DyrateError` with file, line and cause for one that fails, exits or
    hangs.

    It is refused where its source, or that of what it imports from beside it, has changed since.
    """
    path = path.resolve()
    # The path itself may be read in two ways once its separators are gone.
    digest = sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:16]
    name = f"dyrate_method_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"
    return _imported(name, path, lambda: _execute(name, path))


def import_plugin(name: str) -> ModuleType:
    """Import a module of an installed package; as `import_file`."""
    return _imported(name, source_of(name), lambda: importlib.import_module(name))


def source_of(module: str) -> Path:
    """Return a module's source file, without importing it; its packages are, and `DyrateError` as above."""
    with _reported(module):
        found = importlib.util.find_spec(module)
        if found is None or not found.has_location or found.origin is None:
            raise ModuleNotFoundError(f"there is no source of a module {module!r}")
    return Path(found.origin)


def _imported(name: str, path: Path, load: Callable[[], ModuleType]) -> ModuleType:
    files = local_closure([path])
    remember(files)
    if name not in sys.modules:
        with _reported(str(path)):
            load()
        _check_neighbours(path, files)
    check_unchanged(files)
    return sys.modules[name]


def _check_neighbours(path: Path, files: Iterable[Path]) -> None:
    """Refuse a module of the same name that an earlier plug-in brought from beside itself."""
    files = set(files)
    for neighbour in files - {path}:
        name = neighbour.parent.name if neighbour.name == "__init__.py" else neighbour.stem
        loaded = Path(getattr(sys.modules.get(name), "__file__", None) or neighbour).resolve()
        if loaded not in files and remembered(loaded):
            raise DyrateError(
                f"{path}: imports {name}, which in this process is {loaded}, but {neighbour} stands beside "
                "it: rename one of them"
            )


def _execute(name: str, path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    # Dataclasses look their module up by name.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Make one `DyrateError` of whatever an import ends with, but for Ctrl-C."""
    try:
        with _within_limit(what):
            yield
    except (KeyboardInterrupt, DyrateError):
        raise
    # Whatever it is, SystemExit included: it is passed on, as an error that names the file.
    except BaseException as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        if isinstance(error, _TooLongError):
            cause = f"not done after {LIMIT} seconds; an import should only define what a method is"
        raise DyrateError(f"{_place(error, what)}: cannot be imported: {cause:.500}") from error


def _place(error: BaseException, what: str) -> str:
    """Where in the file it happened, or what it was that failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == Path(what)
    ]
    return f"{what}:{frames[-1].lineno}" if frames else what


@contextmanager
def _within_limit(what: str) -> Iterator[None]:
    """Say what takes its time, and give it up at last; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waited = 0

    def report(number: int, frame: FrameType | None) -> None:
        nonlocal waited
        waited += NOTICE
        if waited >= LIMIT:
            raise _TooLongError
        sys.stderr.write(f"dyrate: {what} is still being imported after {waited} seconds\n")
        sys.stderr.flush()

    handler = signal.signal(signal.SIGALRM, report)
    before = signal.setitimer(signal.ITIMER_REAL, NOTICE, NOTICE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)
