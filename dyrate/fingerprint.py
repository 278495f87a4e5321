"""Which of the package's modules a rule uses, and a hash of their content.

A rule carries the hash as a parameter, so that Snakemake reruns it when that code changes, and only then.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from dyrate.imports import PACKAGE, import_closure, local_closure, package_modules, source


def fingerprint(modules: Iterable[str], files: Iterable[str | Path] = (), package: Path = PACKAGE) -> str:
    """Hash the given modules, all package modules that they import, their packages' data files, and `files`.

    `files` are source files outside the package; what they import counts as well, from the package, from
    beside them and from the working folder, but not from other installed packages. Comments and docstrings
    do not count, and neither does Markdown. `package` is the folder of `dyrate`.
    """
    closure, outside = _closures(modules, files, package)
    digest = hashlib.sha256()
    for path in [*closure, *_data_files(closure, package)]:
        digest.update(f"{path.relative_to(package)}\0{_hash(path, path.stat().st_mtime_ns)}\n".encode())
    # By name and not by path: the same files in another checkout are the same code.
    for name, content in sorted((path.name, _hash(path, path.stat().st_mtime_ns)) for path in outside):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def sources(modules: Iterable[str], files: Iterable[str | Path] = ()) -> list[Path]:
    """Source files of the modules and files, and of all that they import, as `fingerprint` hashes them."""
    closure, outside = _closures(modules, files, PACKAGE)
    return closure + outside


def _closures(
    modules: Iterable[str], files: Iterable[str | Path], package: Path
) -> tuple[list[Path], list[Path]]:
    outside = local_closure(map(Path, files), package)
    return import_closure({*modules, *package_modules(outside, package)}, package), outside


def _data_files(closure: Iterable[Path], package: Path) -> list[Path]:
    """Data files (task files, templates, schemas) of the packages in the closure, but the top one."""
    folders = {path.parent for path in closure} - {package}
    return sorted({path for folder in folders for path in _data_below(folder)})


def _data_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != "__pycache__" and not (path / "__init__.py").exists():
                yield from _data_below(path)
        elif path.suffix not in {".py", ".pyc", ".md"}:
            yield path


@cache
def _hash(path: Path, modified: int) -> str:
    if path.suffix == ".py":
        return source(path, modified).digest
    return hashlib.sha256(path.read_bytes()).hexdigest()
