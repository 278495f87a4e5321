"""Table III's times are those of the row's own method on the study's own machine, or none."""

import json
from pathlib import Path

import pytest

from dyrate.analysis.latency import Latencies
from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table3
from dyrate.bench import study_jobs as jobs
from dyrate.errors import DyrateError
from dyrate.study import Study
from tests.report import fake
from tests.report.speed.fake import bench, row, spread


def write(study, model, rows, **changes):
    path = Path(jobs.document(study, model.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    document = bench(rows, model=model.path, weights="checkpoint", replayed=None, **changes)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def timed(study, tmp_path):
    fake.write_study(study, tmp_path)  # its results without times: each test writes those that it wants
    timed = Study.of({**fake.CONFIG, "latency": {"benchmark": "nocaps"}})
    return timed, load(timed)


def test_a_row_has_the_time_of_its_own_method(timed):
    study, measurements = timed
    methods = [m.result["method"] for m in measurements if m.model == "testbed-s" and m.group == "main"]
    times = {str(method): 330.0 + 33 * number for number, method in enumerate(methods)}
    write(study, study.models[0], [row(method, whole_ms=spread(times[str(method)])) for method in methods])

    table = table3(study, measurements)

    shown = {
        str(row.measurement.result["method"]): row.texts[1].measured
        for row in table.rows
        if row.measurement and row.measurement.model == "testbed-s"
    }
    assert shown == {key: f"{time / 33:.2f}" for key, time in times.items()}
    others = [row for row in table.rows if row.measurement and row.measurement.model == "testbed-m"]
    assert others
    assert all(row.texts[1].measured is None for row in others)
    assert "33 tokens to each prompt" in table.notes["b"]
    assert "results/testbed/latency/testbed-s.json" in table.notes["b"]


def test_a_method_that_was_not_timed_has_no_time(timed):
    study, measurements = timed
    write(study, study.models[0], [row({"name": "none"})])
    table = table3(study, measurements)
    with_time = [row for row in table.rows if row.texts[1].measured]
    assert [row.measurement.method for row in with_time] == ["none"]


def test_without_documents_the_note_says_why(study, measurements):
    assert Latencies.of(study).documents == {}
    assert "Not measured on this study’s models" in table3(study, measurements).notes["b"]


def test_a_document_of_another_model_is_refused(timed):
    study, _ = timed
    model = study.models[0]
    write(study, model, [row({"name": "none"})])
    path = Path(jobs.document(study, model.name))
    path.write_text(path.read_text("utf-8").replace(model.path, "models/other"), encoding="utf-8")
    with pytest.raises(DyrateError, match="model: is 'models/other', should be 'models/testbed-s'"):
        Latencies.of(study)
