"""A copy of the project to run Snakemake in, and a study finished without a model."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dyrate.study import Study
from tests.report import fake

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "config", "profiles", "examples", "predictors", "environment.yml", "dyrate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs Snakemake takes more than ten seconds."""
    for item in items:
        if "warm" in getattr(item, "fixturenames", ()) and "pipeline" in item.path.parts:
            item.add_marker(pytest.mark.slow)


class Project:
    """A copy of the repository's pipeline, models left out, and ways to run it: on this Python, or on that in
    `warm`, which need not load its libraries.
    """

    def __init__(self, folder: Path, warm: Path | None = None) -> None:
        self.folder = folder
        self.binaries = [str(warm)] * bool(warm) + [str(Path(sys.executable).parent)]

    @classmethod
    def copied_from(cls, source: Path, folder: Path, warm: Path | None = None) -> "Project":
        for part in PARTS:
            copy = shutil.copytree if (source / part).is_dir() else shutil.copy2
            copy(source / part, folder / part)
        return cls(folder, warm)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([*self.binaries, os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def snakemake(self, *arguments: str, status: int = 0) -> str:
        done = self.run("python", "-m", "snakemake", "--cores", "1", *arguments)
        output = done.stdout + done.stderr
        assert done.returncode == status, output
        return output

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.folder / path
        text = file.read_text()
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new, 1))

    def make_up_results(self, config: str) -> Study:
        study = Study.read(self.folder / config)
        fake.write_study(study, self.folder)
        # As old as if jobs had made them in their order.
        trained = [path for predictor in study.trainings for path in predictor.files]
        for age, paths in ((200, study.data_files), (150, trained), (100, [study.jobs[0].result])):
            for path in paths:
                made = (self.folder / path).stat().st_mtime - age
                os.utime(self.folder / path, (made, made))
        return study


@pytest.fixture
def project(tmp_path: Path, warm: Path) -> Project:
    return Project.copied_from(REPOSITORY, tmp_path, warm)


@pytest.fixture(scope="session")
def finished_once(shared: Path, warm: Path) -> Path:
    """The smoke study run to its end by Snakemake; its jobs copy made-up files instead of running a model."""
    folder = shared / "finished"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = shared / "making"
            making.mkdir()
            _finish(Project.copied_from(REPOSITORY, making, warm))
            making.rename(folder)
    return folder


def _finish(project: Project) -> None:
    study = Study.read(project.folder / "config/smoke.yaml")
    fake.write_study(study, project.folder / "made-up", asked=True)
    predictor = "made-up/results/smoke/predictors/{wildcards.model}/{wildcards.predictor}"
    for rule, copying in (
        ("testbed", "cp made-up/data/smoke/*.parquet {params.output} #"),
        ("predictors", f"cp {predictor}/* $(dirname {{output.record}}) #"),
        ("latency", "cp made-up/{output} {output} #"),
        ("evaluate", "for made in {output:q}; do cp made-up/$made $made; done #"),
    ):
        start = "printf" if rule == "evaluate" else "python -m"
        project.edit(f"workflow/rules/{rule}.smk", f'"{start}', f'"{copying} {start}')
    project.snakemake("--configfile", "config/smoke.yaml")


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path, warm: Path) -> Project:
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, warm)
