"""A Slurm of one node that runs."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("one_node.sh")


@pytest.fixture
def slurm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With four GPUs that it has not, or as many as the parameter says."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    gpus = str(getattr(request, "param", 4))
    subprocess.run([SCRIPT, "start", folder, gpus], env=environment, check=True, timeout=60)
    yield
    subprocess.run([SCRIPT, "stop", folder], env=environment, check=True, timeout=60)
