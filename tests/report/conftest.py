"""The embedded study with made-up results in a temporary folder."""

from contextlib import chdir
from pathlib import Path

import pytest

from dyrate.report.measured import load
from dyrate.report.page import report_page
from dyrate.study import Study
from tests.report import fake

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Study.read(REPOSITORY / "config/testbed.yaml")


@pytest.fixture
def measurements(study, tmp_path):
    fake.write_study(study, tmp_path)
    return load(study)


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """The report page of that study, rendered once."""
    folder = tmp_path_factory.mktemp("page")
    study = Study.read(REPOSITORY / "config/testbed.yaml")
    with chdir(folder):
        fake.write_study(study, folder)
        return report_page(study, load(study))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A study of three jobs and its measurements."""
    monkeypatch.chdir(tmp_path)
    study = Study.read(REPOSITORY / "config/smoke.yaml")
    fake.write_study(study, tmp_path)
    return study, load(study)
