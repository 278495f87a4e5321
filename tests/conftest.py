"""What tests of all folders share: commands that start fast, and the order in which tests run."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.pipeline.warm import make


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run commands come first, then others with slow tests: no worker waits for a last long one.

    Files stay whole, for the sake of what is made once for each.
    """
    commands = {item.path for item in items if "warm" in getattr(item, "fixturenames", ())}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in commands, item.path not in slow))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the first worker that comes makes, and all use."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def warm(shared: Path) -> Path:
    """The folder of a `python`, `dyrate` and `snakemake` that need not load their libraries."""
    folder = shared / "warm"
    with (shared / "warm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(folder)
    return folder
