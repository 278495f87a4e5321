"""A study like the embedded one, with made-up results in a temporary folder."""

from contextlib import chdir

import pytest

from dyrate.analysis.contents import gather
from dyrate.analysis.measurements import load
from dyrate.report import drawing
from dyrate.report.page import report_pages
from dyrate.study import Study
from tests.report import fake


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Study.of(fake.CONFIG)


@pytest.fixture
def measurements(study, tmp_path):
    fake.write_study(study, tmp_path)
    return load(study)


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """The report's pages of that study, rendered once."""
    folder = tmp_path_factory.mktemp("page")
    study = Study.of(fake.CONFIG)
    with chdir(folder):
        fake.write_study(study, folder)
        return report_pages(study, load(study))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A study of three jobs and its measurements."""
    monkeypatch.chdir(tmp_path)
    methods = [fake.CONFIG["methods"][i] for i in (0, 2, 5)]
    models = fake.CONFIG["models"][:1]
    study = Study.of({**fake.CONFIG, "study": "smoke", "models": models, "methods": methods, "samples": 6})
    fake.write_study(study, tmp_path)
    return study, load(study)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """The study with DyRate and its ablations in a folder of its own: all of `compared`, pages, figures."""
    folder = tmp_path_factory.mktemp("compared")
    study = Study.of(fake.WITH_DYRATE)
    with chdir(folder):  # left again: other tests stand where they always do
        fake.write_study(study, folder, images=False)
        measurements = load(study)
        contents = gather(study, measurements)
        with drawing.album() as pictures:
            pages = report_pages(study, measurements)
        return (study, measurements, contents, folder), pages, pictures


@pytest.fixture(scope="session")
def compared(rendered):
    """Study, measurements, contents, and the folder that answers are read from."""
    return rendered[0]
