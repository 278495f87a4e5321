"""What a result depends on besides its arguments: code, commit, versions."""

import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dyrate import registry
from dyrate.fingerprint import fingerprint

_PACKAGES = ("torch", "transformers", "lmms-eval", "datasets", "pycocoevalcap", "numpy", "pillow", "dyrate")


def answering_code(spec: Mapping[str, Any]) -> str:
    """Hash of the code that decides what is answered: the adapter, the runtime, the method's own module."""
    return _hash(spec, "dyrate.evaluation.adapter", "dyrate.reduction")


def result_code(spec: Mapping[str, Any]) -> str:
    """Hash of the code behind a result: `answering_code`'s and the scoring."""
    return _hash(spec, "dyrate.evaluation.evaluate", "dyrate.reduction")


def _hash(spec: Mapping[str, Any], *modules: str) -> str:
    module = registry.references().get(spec["name"], "").partition(":")[0]
    if module.startswith("dyrate."):
        return fingerprint([*modules, module])
    return fingerprint(modules, [registry.module_file(spec)])


def versions() -> dict[str, str]:
    """Versions of the installed packages that can change a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the checkout that dyrate runs from; None where it is installed or git is missing."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
