"""A study on a real Slurm of one node: the shipped profile, and the command as README prints it."""

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dyrate.testbed.benchmarks.build import build
from tests.pipeline.conftest import REPOSITORY, Project

NEEDED = [
    name
    for name in ("slurmctld", "slurmd", "munged")
    if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
]
PLUGIN = "snakemake_executor_plugin_slurm"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(NEEDED), reason=f"no {', '.join(NEEDED)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="one_node.sh starts Slurm's daemons as root"),
    pytest.mark.skipif(
        importlib.util.find_spec(PLUGIN) is None, reason=f"no {PLUGIN}: see requirements.txt here"
    ),
]

DIES = '''
import os, signal
from dataclasses import dataclass
from typing import ClassVar
from dyrate.methods.fastv import FastV

@dataclass(frozen=True)
class Dies(FastV):
    """Is killed when it is to answer, as by a kernel that is out of memory."""
    name: ClassVar[str] = "dies"
    def install(self, *arguments, **keywords):
        os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """The project, with a study of a minute in the place of the paper's, which asks for a GPU as well."""
    project = Project.copied_from(REPOSITORY, tmp_path)
    shutil.copytree(REPOSITORY / "models/testbed-s", tmp_path / "models/testbed-s")
    (tmp_path / "dies.py").write_text(DIES)
    study = {
        "study": "paper",
        "data": "data/paper",
        "samples": 3,
        "threads": 1,  # fewer than the node has, and each job sees all of these
        "resources": {"gpu": 1, "mem_mb": 4000, "runtime": 10},
        "models": [{"name": "llava-1.5-7b", "path": "models/testbed-s", "published": "LLaVA-1.5-7B"}],
        "methods": [
            {"name": "none", "published": {"table1": "LLaVA v1.5", "table2": "Original"}},
            {"name": "fastv", "layer": 2, "rate": 0.5, "published": {"table1": "FastV"}},
        ],
        "benchmarks": ["gqa", "nocaps"],
        "latency": {"benchmark": "nocaps", "new_tokens": 2, "rounds": 1},
        "metrics": "primary",
    }
    (tmp_path / "config/paper.yaml").write_text(yaml.safe_dump(study))
    build(study["benchmarks"], study["samples"], 0, tmp_path / study["data"])
    return project


def command() -> list[str]:
    """The line of README that runs the paper's study on a cluster."""
    (line,) = re.findall(
        r"^\$ (snakemake .*profiles/slurm)\b", (REPOSITORY / "README.md").read_text(), re.MULTILINE
    )
    return line.split()


def say(project: Project, *asked: str) -> subprocess.CompletedProcess[str]:
    """Run a command; `pytest -rP` shows it with what it said."""
    done = project.run(*asked)
    sys.stdout.write(f"$ {' '.join(asked)}\n{done.stdout}{done.stderr}[exit status {done.returncode}]\n\n")
    return done


def beside_plugin(project: Project) -> str:
    """PYTHONPATH for the project's own package, and Snakemake's plugin."""
    plugin = Path(str(importlib.util.find_spec(PLUGIN).origin)).parents[1]  # type: ignore[union-attr]
    return f"{project.folder}{os.pathsep}{plugin}"


def table(project: Project, name: str) -> list[dict[str, str]]:
    return list(
        csv.DictReader((project.folder / f"results/paper/tables/{name}.csv").read_text().splitlines())
    )


def test_readmes_command_runs_a_study_and_a_dead_job_costs_its_own_cells(
    small: Project, slurm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", beside_plugin(small))

    done = say(small, *command())

    assert done.returncode == 0, done.stdout + done.stderr
    assert "has been submitted with SLURM jobid" in done.stdout + done.stderr
    rows = [row for row in table(small, "table1") if row["value"]]
    assert {(row["method"], row["benchmark"]) for row in rows} == {
        ("Unpruned", "gqa"),
        ("FastV (K=2, R=0.5)", "gqa"),
    }
    assert all(row["difference"] for row in rows if row["method"] != "Unpruned")
    assert (small.folder / "results/paper/latency/llava-1.5-7b.json").exists()
    unlocked = say(small, "snakemake", "--unlock", "--configfile", "config/paper.yaml")
    assert unlocked.returncode == 0, unlocked.stdout + unlocked.stderr

    study = yaml.safe_load((small.folder / "config/paper.yaml").read_text())
    study["methods"].append({"name": "dies.py:Dies", "layer": 2, "rate": 0.5})
    (small.folder / "config/paper.yaml").write_text(yaml.safe_dump({**study, "threads": 4}))
    cut = say(small, *command(), "--cores", "2")
    assert cut.returncode == 1
    assert "--cores 2: no job would get more CPUs of the cluster, but each takes 4" in cut.stdout + cut.stderr
    (small.folder / "config/paper.yaml").write_text(yaml.safe_dump(study))

    done = say(small, *command())

    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "SLURM status is: 'FAILED'" in said
    (row,) = [row for row in table(small, "table1") if row["missing"]]
    assert (row["method"], row["value"]) == ("dies.py:Dies (layer=2, rate=0.5)", "")
    assert "it ended without a word" in row["missing"]
    assert len([row for row in table(small, "table1") if row["value"]]) == len(rows)
    assert "Not complete." in (small.folder / "reports/paper/index.html").read_text()
