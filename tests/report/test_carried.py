"""Which verdicts carry over: from one model of a study to another, by hand, in the table and on the page."""

import csv

import pytest

from dyrate.analysis.carried import carried, summaries
from dyrate.analysis.measurements import load
from dyrate.analysis.paired import Answers
from dyrate.analysis.ranking import rankings
from dyrate.report import csv_files
from dyrate.report.page import report_pages
from dyrate.report.ranking import carries
from dyrate.study import Study
from tests.report import test_equal_budget
from tests.report.test_equal_budget import RIGHT, SHARES, write

METHODS = [
    {"name": "none"},
    {"name": "fastv", "layer": 2, "rate": 0.25},
    {"name": "fastv", "layer": 2, "rate": 0.75, "group": "methods"},
    {"name": "dyrate", "predictor": "default", "layer": 2},
    {"name": "visionzip", "budget": 0.5, "group": "methods"},
    {"name": "random", "layer": 0, "rate": 0.5, "group": "methods"},
]
SPENT = {**SHARES, "visionzip": (0.51, 0.51), "0.5": (0.5, 0.5)}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """On `b` random is the best of all, and visionzip and FastV are alike."""
    monkeypatch.chdir(tmp_path)
    config = {
        "study": "small",
        "models": [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}],
        "predictors": [{"name": "default"}],
        "methods": METHODS,
        "benchmarks": ["gqa", "vizwiz"],
        "rank_at": [0.5],
    }
    study = Study.of(config)
    right = {**RIGHT, "visionzip": 39, "0.5": 10}
    for models, changes in ((config["models"], {}), (config["models"][1:], {"visionzip": 24, "0.5": 40})):
        monkeypatch.setattr(test_equal_budget, "RIGHT", {**right, **changes})
        write(Study.of({**config, "models": models}), tmp_path, SPENT)
    return study


def outcomes(found):
    return {one.methods: (one.verdicts, one.outcome) for one in found}


def test_a_verdict_holds_is_open_or_is_reversed_elsewhere(study):
    found = carried(rankings(load(study), (0.5,), Answers(0)), ())
    zip_, fastv, chance = "visionzip (budget=0.5)", "FastV (K=2)", "random (K=0, R=0.5)"

    assert {(one.models, one.budget) for one in found} == {(("a", "b"), 0.5)}
    assert outcomes(found)[zip_, fastv] == (("win", "tie"), "open")
    assert outcomes(found)[zip_, chance] == (("win", "loss"), "reversed")
    assert outcomes(found)["DyRate", fastv] == (("win", "win"), "holds")
    (zip_chance,) = (one for one in found if one.methods == (zip_, chance))
    first, second = zip_chance.differences
    assert first["value"] == pytest.approx((39 - 10) / 0.4)
    assert second["value"] == pytest.approx((24 - 40) / 0.4)
    assert second["low"] <= second["value"] <= second["high"] < 0


def test_the_table_and_the_page_tell_of_every_pair(study, tmp_path):
    measurements = load(study)
    found = carried(rankings(measurements, study.typed.rank_at, Answers(0)), ())
    (summary,) = summaries(found)
    csv_files.write(csv_files.LISTED["carried"].sheet(found), tmp_path / "carried.csv")
    lines = [*csv.DictReader((tmp_path / "carried.csv").read_text().splitlines())]

    assert len(lines) == summary.outcomes.total() == 4 * 3 / 2
    assert {line["outcome"] for line in lines} >= {"holds", "open", "reversed"}
    assert all(float(line["other_difference_low"]) <= float(line["other_difference"]) for line in lines)
    (sentence,) = carries(found)
    assert sentence.startswith("From a to b, two methods at 50% of the visual tokens: of ")
    assert sentence in report_pages(study, measurements)["budget.html"]


def test_one_model_alone_has_nothing_to_carry(study):
    alone = [m for m in load(study) if m.model == "a"]
    assert carried(rankings(alone, (0.5,), Answers(0)), ()) == ()
