"""What a result depends on besides its arguments: code, commit, versions."""

import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dyrate import registry
from dyrate.fingerprint import fingerprint, sources
from dyrate.loaded import check_unchanged

_HOME = Path(__file__).parents[1]
_PACKAGES = ("torch", "transformers", "lmms-eval", "datasets", "pycocoevalcap", "numpy", "pillow", "dyrate")


def answering_code(spec: Mapping[str, Any]) -> str:
    """Hash of the code that decides what is answered: the adapter, the runtime, the method's own module.

    Raises `DyrateError` for code that has changed since this process imported it.
    """
    return _hash(spec, "dyrate.evaluation.adapter", "dyrate.reduction")


def result_code(spec: Mapping[str, Any]) -> str:
    """Hash of the code behind a result: `answering_code`'s and the scoring. Raises `DyrateError` likewise."""
    return _hash(spec, "dyrate.evaluation.evaluate", "dyrate.reduction")


def _hash(spec: Mapping[str, Any], *modules: str) -> str:
    module = registry.built_in().get(spec["name"], "").partition(":")[0]
    own = bool(module)
    used, files = ([*modules, module], []) if own else (modules, [registry.module_file(spec)])
    check_unchanged(sources(used, files))
    return fingerprint(used, files)


def versions() -> dict[str, str]:
    """Versions of the installed packages that can change a result."""
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit(package: Path = _HOME) -> str | None:
    """The commit of the checkout that dyrate runs from; None where it is installed or git is missing.

    It ends in `-dirty` where a file of the package is changed or new. A repository that merely contains the
    environment in which dyrate is installed does not track it, and is not taken for its checkout.
    """
    if not _git(package, "ls-files", "--", "__init__.py"):
        return None
    head = _git(package, "rev-parse", "HEAD")
    return f"{head}-dirty" if _git(package, "status", "--porcelain", "--", ".") else head


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints there; None where it fails or is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
