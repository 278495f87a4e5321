"""Runs the fault matrix: each command line in this process, on a damaged copy of what it needs."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import content_hash
from dyrate.predictors import save_predictor
from dyrate.study import Study
from dyrate.study.fit import check_jobs
from tests.evaluation.stand_ins import make_benchmark, make_checkpoint
from tests.faults import matrix
from tests.faults.damage import Place
from tests.faults.matrix import NONE, TEXT, Fault
from tests.runtime.tiny_predictors import random_predictor

BENCHMARKS = ("gqa", "vizwiz", "sqa", "pope", "mmb", "mme", "coco2017")
FAULTS = [
    pytest.param(fault, id=f"{kind.lower()}: {fault.what}")
    for kind, faults in vars(matrix).items()
    if kind.isupper() and isinstance(faults, list)
    for fault in faults
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with nothing wrong, in which the unpruned model and `text_only` have been evaluated."""
    place = Place(tmp_path_factory.mktemp("whole"))
    make_checkpoint(place.model)
    place.data.mkdir()
    for benchmark in BENCHMARKS:
        make_benchmark(place.data, benchmark, 12)
    predictor = random_predictor(0, layer=1, heads=2)
    record = {
        "schedule": [0.5],
        "recipe": {},
        "model": {"name": "model", "weights": content_hash(place.model)},
    }
    save_predictor(predictor, place.predictor, record)
    for command in (NONE, TEXT):
        assert main(place.fill(command)) == 0
    return place.folder


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    shutil.copytree(whole, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return Place(tmp_path / "place")


def run(command: list[str]) -> int:
    """The exit status of a command; `plan` is what Snakemake does with a study before any job runs."""
    try:
        if command[0] != "plan":
            return main(command)
        check_jobs(Study.read(command[1]))
    except SystemExit as refusal:  # of the argument parser
        return int(refusal.code or 0)
    except DyrateError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_outcome(fault: Fault, place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    fault.damage(place)
    results = {path: path.read_bytes() for path in place.output.rglob("greedy.json")}
    status = run(place.fill(fault.command))
    told = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    if fault.refusal is None:
        assert (status, told) == (0, [])
    else:
        assert status == 2
        assert len(told) == 1
        assert re.search(fault.refusal, told[0]), told[0]
        assert {path: path.read_bytes() for path in place.output.rglob("greedy.json")} == results
