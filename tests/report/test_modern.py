"""Tables of a study of none of the paper's models: its own benchmarks, and nothing that the paper prints."""

from pathlib import Path

import pytest

from dyrate.analysis.contents import gather
from dyrate.analysis.frame import PUBLISHED, frame
from dyrate.analysis.measurements import load
from dyrate.analysis.tables import TABLE1, table1, table2, table3
from dyrate.registry import load_method
from dyrate.study import Study
from dyrate.study.fit import check_jobs
from tests.report import fake

CONFIG = Path(__file__).parents[2] / "config/modern.yaml"
DEPTHS = {"qwen2.5-vl-7b": (28, 28), "llava-onevision-7b": (28, 28)}
"""Layers and heads; of the others 36 and 32."""
MODELS = [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}]
METHODS = [{"name": "none"}, {"name": "fastv", "layer": 2, "rate": 0.5}, {"name": "random", "layer": 2}]


@pytest.fixture
def modern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    names = ["gqa", "nocaps", "chartqa", "docvqa", "mmstar", "mmmu", "visualpuzzles"]
    config = {"study": "small", "tasks": "hub", "models": MODELS, "methods": METHODS, "benchmarks": names}
    study = Study.of(config)
    fake.write_study(study, tmp_path, images=False)
    return study


def test_tables_have_the_studys_benchmarks_and_no_printed_figure(modern: Study) -> None:
    measurements = load(modern)
    tables = [table(modern, measurements) for table in (table1, table2, table3)]
    assert [[column.benchmark for column in table.columns] for table in tables] == [
        ["gqa", "chartqa", "docvqa", "mmstar", "mmmu", "visualpuzzles"],
        ["nocaps"],
        ["nocaps"],
    ]
    assert [column.heading for column in tables[0].columns][1:3] == ["ChartQA", "DocVQA"]
    for table in tables:
        assert len(table.rows) == 6
        assert not table.footnotes or table is tables[2]
        for row in table.rows:
            assert row.printed is None
            assert all(cell.measured is not None and cell.published is None for cell in row.cells)
        assert not any(column.published for column in table.all_columns)
    contents = gather(modern, measurements)
    shown = [table for table in contents.tables if table.measured]
    assert not any(row.printed for table in shown for row in table.rows)
    found = frame(modern, measurements)
    assert PUBLISHED not in set(found["origin"])
    assert set(found["benchmark"]) == set(modern.benchmarks)


def test_a_model_of_the_papers_gets_what_is_printed_and_further_benchmarks_behind_it(
    modern: Study, tmp_path: Path
) -> None:
    config = {**modern.config, "models": [{**MODELS[0], "published": "LLaVA-1.5-7B"}]}
    study = Study.of(config)
    table = table1(study, load(study))
    assert table.columns[: len(TABLE1)] == TABLE1
    assert [column.benchmark for column in table.columns[len(TABLE1) :]] == [*modern.benchmarks[2:]]
    assert any(row.printed for row in table.rows)


def test_the_config_names_methods_that_run_at_the_models_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIG.parents[1])
    study = Study.read(CONFIG)
    check_jobs(study)
    for job in (job for job in study.jobs if job.predictor is None):  # no predictor is trained yet
        layers, heads = DEPTHS.get(job.model.name, (36, 32))
        method = load_method(job.spec)
        method.check(layers, heads)
        method.needs(layers)
    expected = "fastv vtw pyramiddrop sparsevlm dart divprune visionzip hiprune visionpulse dycoke dyrate"
    assert {*expected.split()} <= {job.method.name for job in study.jobs}
    thinking = [job for job in study.jobs if job.model.name.endswith("thinking")]
    assert {job.method.benchmarks for job in thinking} == {("visualpuzzles",)}
    assert not any(model.published for model in study.models)
