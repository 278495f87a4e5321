"""Fixtures: the stand-ins, made once per session."""

from pathlib import Path

import pytest

from dyrate.evaluation.benchmarks import BENCHMARKS
from tests.evaluation.stand_ins import make_benchmark, make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for benchmark in BENCHMARKS:
        make_benchmark(folder, benchmark, 12)
    return folder
