"""What README prints runs: Python as printed, and says what it says it says; commands
as printed, or made short by what a test adds; those that need the hub as far as that goes without one.
"""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, commands
from tests.pipeline.conftest import Project

README = blocks(ROOT / "README.md")
CONSOLES = [block.text for block in README if block.language == "console"]
PRINTED = [command.partition(" #")[0].strip() for text in CONSOLES for command, _ in commands(text)]
SHORT = {
    "make ": " -n",
    "dyrate train-predictor ": """ --recipe '{"steps": 1, "ranking_steps": 1, "batch_size": 2}'""",
    "dyrate look --sample ": "",
    "dyrate methods": "",
    "dyrate benchmarks": "",
    "dyrate trace --help": "",
    "dyrate bench --help": "",
    "dyrate bench-harness --help": "",
    "dyrate bench-training --help": "",
    "dyrate evaluate --model models/testbed-s ": " --samples 2",
    "dyrate preflight ": " --gpu-memory 80",
    "snakemake -n ": " --cores 1",
    "snakemake fetch ": " -n",
    "snakemake --cores all ": " -n",
}
"""The beginning of a command, and what a test adds to it."""
ELSEWHERE = (
    "python -m lmms_eval ",
    "snakemake --configfile config/paper.yaml --workflow-profile profiles/slurm",
    "dyrate look photo.jpg ",
    "dyrate table ",
    "dyrate compare ",
)
"""Needs the hub: its words are read in tests/docs/test_names.py, the adapter runs in tests/evaluation. Needs
Slurm: runs in tests/slurm. Need somebody's photo, or finished studies: in tests/look and tests/report."""


@pytest.mark.slow
def test_python_blocks_run_one_after_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    python = [block.text for block in README if block.language == "python"]
    names: dict[str, object] = {}
    for block in python:
        exec(compile(block, "README.md", "exec"), names)
    assert len(python) == 3
    printed = capsys.readouterr().out
    assert "Which shape does the small red thing have?" in printed
    assert printed.rstrip().endswith("ASSISTANT: triangle")


def test_each_command_is_one_that_a_test_runs() -> None:
    assert len(PRINTED) == 20
    assert [one for one in PRINTED if not one.startswith((*SHORT, *ELSEWHERE))] == []


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, warm: Path) -> Project:
    """A copy for all commands: its bytecode is made once."""
    folder = tmp_path_factory.mktemp("readme")
    project = Project.copied_from(ROOT, folder, warm)
    (folder / "results").mkdir()
    for part in ("models", "Makefile", "requirements.lock", "pyproject.toml", "results/h200"):
        (folder / part).symlink_to(ROOT / part)
    return project


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in PRINTED if not one.startswith(ELSEWHERE)])
def test_a_command_runs(command: str, copied: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(copied.folder / "hub"))
    if "evaluate" in command:
        built = copied.run("bash", "-c", "dyrate testbed build --benchmarks gqa pope --samples 2")
        assert built.returncode == 0, built.stderr
    longest = max((one for one in SHORT if command.startswith(one)), key=len)

    done = copied.run("bash", "-c", command + SHORT[longest])

    said = done.stdout + done.stderr
    if "preflight" in command:  # of a hub that is not there
        assert done.returncode == 1, said
        assert "is not fetched, and the hub cannot be reached" in said
        assert "GPU hours" in said
    else:
        assert done.returncode == 0, said
