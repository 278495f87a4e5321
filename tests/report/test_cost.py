"""FLOPs in the report come from the work in the results, and each says under which convention."""

import csv

import pytest

from dyrate.analysis import cost
from dyrate.analysis.ablations import strategy_table
from dyrate.analysis.frame import costs, counted, frame
from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table3
from dyrate.cost.flops import CONVENTIONS, SCOPES
from dyrate.report import csv_files
from tests.report import fake
from tests.report.test_page import text_of


def of(measurements, label, model="testbed-s"):
    return next(m for m in measurements if (m.label, m.model, m.group) == (label, model, "main"))


def test_t_and_n_are_the_means_of_what_ran(measurements):
    mine = cost.spent(of(measurements, "FastV (K=2, R=0.5)"), "nocaps")

    assert (mine.text_tokens, mine.new_tokens) == (20, 31)
    assert cost.spent(of(measurements, "FastV (K=2, R=0.5)"), "gqa").new_tokens == 2


def test_percentages_are_of_the_unpruned_models_own_generation(measurements):
    none = cost.spent(of(measurements, "Unpruned"), "nocaps")
    fastv = cost.spent(of(measurements, "FastV (K=2, R=0.5)"), "nocaps")

    assert list(cost.percentages(none).values()) == pytest.approx([100.0] * 9)
    shares = cost.percentages(fastv)
    assert len(shares) == len(CONVENTIONS) * len(SCOPES)
    assert all(40 < share < 100 for share in shares.values())
    # The encoder and the head cost the same for both.
    assert shares["flops", "prefill"] > shares["gated_3ndm", "prefill"]
    assert shares["gated_3ndm", "cached"] > shares["gated_3ndm", "prefill"]


def test_tables_print_it_beside_the_papers(study, measurements):
    texts = {
        row.measurement.label: row.texts[0].measured
        for row in table3(study, measurements).rows
        if row.measurement and row.measurement.model == "testbed-s"
    }
    assert texts["Unpruned"] == "100.0"
    assert 0 < float(texts["VTW (K=4)"]) < 100
    assert "t = 20, N = 31" in table3(study, measurements).notes["a"]
    assert "convention flops" in strategy_table(study, measurements).notes["b"]


def test_results_that_do_not_say_have_no_percentage(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.write_study(study, tmp_path)
    measurements = load(study)
    for m in measurements:
        m.result.pop("shape")

    assert counted(frame(study, measurements)) == []
    assert list(costs(frame(study, measurements))) == []
    assert cost.percent(measurements[0], "nocaps") is None


@pytest.mark.slow
def test_the_page_and_the_csv_have_every_convention(study, measurements, pages, tmp_path):
    text = text_of(pages["cost.html"])
    for convention in CONVENTIONS.values():
        assert convention.about in text

    csv_files.write(csv_files.of_costs(frame(study, measurements)), tmp_path / "cost.csv")

    lines = list(csv.DictReader((tmp_path / "cost.csv").open()))
    assert {(line["convention"], line["scope"]) for line in lines} == {
        (convention, scope) for convention in CONVENTIONS for scope in SCOPES
    }
    flops = {line["convention"]: float(line["tera"]) for line in lines if line["scope"] == "prefill"}
    assert flops["flops"] > 2 * flops["gated_3ndm"] > 2 * flops["fastv_2ndm"] > 0
    assert float(lines[0]["percent"]) == pytest.approx(100)
