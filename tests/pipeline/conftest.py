"""A copy of the project to run Snakemake in, and result files that need no model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "config", "profiles", "examples", "environment.yml", "dyrate")


class Project:
    """A copy of the repository's pipeline; models and data are left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in PARTS:
            source = REPOSITORY / part
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / part)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        binaries = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def snakemake(self, *arguments: str, status: int = 0) -> str:
        done = self.run(sys.executable, "-m", "snakemake", "--cores", "1", *arguments)
        output = done.stdout + done.stderr
        assert done.returncode == status, output
        return output

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.folder / path
        text = file.read_text()
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new, 1))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)
