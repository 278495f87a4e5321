"""The frame has everything once, and the tables' figures are its own."""

import csv
import json
import os
from pathlib import Path

import pytest

from dyrate.analysis.frame import FIELDS, KEY, PUBLISHED, frame, lines
from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table1, table2
from dyrate.cli import main
from dyrate.report import csv_files
from dyrate.study import Study
from tests.report import fake


@pytest.fixture
def framed(compared, monkeypatch):
    study, measurements, contents, folder = compared
    monkeypatch.chdir(folder)
    return study, measurements, contents, frame(study, measurements)


def test_every_metric_of_every_result_is_a_row(framed):
    _, measurements, _, found = framed
    measured = found[found["origin"].fillna("") != PUBLISHED]

    assert len(measured) == sum(
        len(b["scores"]) for m in measurements for b in m.result["benchmarks"].values()
    )
    assert not measured.duplicated([*KEY, "result"]).any()
    assert [*found.columns] == [*FIELDS]


def test_a_row_says_what_its_table_says(framed):
    study, measurements, _, found = framed
    rows = {(line["result"], line["benchmark"]): line for line in lines(found) if line["primary"]}

    for table in (table1(study, measurements), table2(study, measurements)):
        for row in table.rows:
            for column, cell in row.pairs(table.columns):
                if row.measurement and cell.measured:
                    line = rows[row.measurement.files.result.as_posix(), column.benchmark]
                    for name in ("metric", "unit", "samples", "units", "value", "low", "high", "verdict"):
                        assert line[name] == getattr(cell.measured, name)
                    assert line["difference_high"] == cell.measured.difference_high


def test_whose_row_it_is(framed):
    found = framed[3]
    origins = {line["name"]: line["origin"] for line in lines(found) if line["group"] == "main"}

    assert (origins["fastv"], origins["none"]) == ("paper", "paper")
    assert {origins[name] for name in ("random", "uniform", "text_only", "downsample")} == {"control"}
    assert origins["dyrate"] == "paper"
    replayed = found[found["method"].str.contains("schedule").fillna(False)]
    assert {*replayed[replayed["origin"] != PUBLISHED]["origin"]} == {"control"}


def test_dyrate_of_unknown_make_and_foreign_results_claim_no_origin(study, measurements, tmp_path):
    theirs = json.loads(Path(study.results[0]).read_text())
    theirs |= {"method": {"name": "theirs"}, "label": "Theirs", "model": "their-model", "origin": None}
    Path("theirs.json").write_text(json.dumps(theirs))
    study = Study.of({**study.config, "external": ["theirs.json"]})

    found = frame(study, load(study))

    assert {line["origin"] for line in lines(found) if line["method"] == "Theirs"} == {None}


def test_printed_figures_have_no_interval_and_are_of_the_papers_models(framed):
    printed = [line for line in lines(framed[3]) if line["origin"] == PUBLISHED]

    assert {line["low"] for line in printed} == {None}
    vtw = {
        (line["model"], line["benchmark"]): line["value"]
        for line in printed
        if (line["name"], line["group"]) == ("vtw", "table2")
    }
    assert vtw["LLaVA-1.5-13B", "nocaps"] == 95.21
    assert {line["group"] for line in printed if line["metric"] == "latency_ms"} == {"table3"}


def test_costs_and_budget_stand_with_what_they_were_spent_on(framed):
    line = next(
        line
        for line in lines(framed[3])
        if (line["model"], line["method"], line["benchmark"]) == ("testbed-s", "FastV (K=2, R=0.5)", "nocaps")
        and line["primary"]
        and line["group"] == "main"
    )

    assert line["prefill_share"] == pytest.approx((2 + 6 * 0.5) / 8)
    assert (line["text_tokens"], line["new_tokens"]) == (20, 31)
    assert 0 < line["flops_cached_percent"] < 100
    assert line["flops_cached_tera"] > 0


def test_what_is_missing_is_a_row_with_its_reason(study, tmp_path):
    fake.write_study(study, tmp_path, asked=True)
    for path in study.data_files:
        os.utime(path, (1e9, 1e9))  # older than the results
    Path(study.jobs[1].result).unlink()

    gone = [line for line in lines(frame(study, load(study))) if line["missing"]]

    assert [line["benchmark"] for line in gone] == [*study.jobs[1].method.benchmarks]
    assert {line["value"] for line in gone} == {None}


def test_the_csv_is_the_frame_and_the_same_each_time(small, tmp_path):
    study, _ = small
    Path("study.json").write_text(study.to_json())

    written = []
    for folder in ("a", "b"):
        assert main(["tables", "--study", "study.json", "--output", folder]) == 0
        written.append({path.name: path.read_bytes() for path in Path(folder).iterdir()})

    assert written[0] == written[1]
    assert {"measurements.csv", "table1.tex", "table1.md", "ranking.tex", "audit.md"} <= written[0].keys()
    for name in ("table1.md", "table1.tex", "ranking.md"):  # for they are pasted elsewhere
        assert "Study: smoke" in written[0][name].decode()
        assert "are not those of the paper's models on its benchmarks" in written[0][name].decode()
    found = list(csv.DictReader(written[0]["measurements.csv"].decode().splitlines()))
    assert [*found[0]] == [*FIELDS]
    assert len(found) == len(frame(study, load(study)))


def test_a_formula_in_a_label_is_text_in_the_frame_s_csv(small, tmp_path):
    study, _ = small
    path = Path(study.results[1])
    path.write_text(json.dumps({**json.loads(path.read_text()), "label": "=HYPERLINK(1)"}))

    csv_files.write(csv_files.of_frame(frame(study, load(study))), tmp_path / "t.csv")

    assert ",'=HYPERLINK(1)," in (tmp_path / "t.csv").read_text()
