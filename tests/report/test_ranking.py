"""All methods at one budget: mixtures, ranks with ties, and agreement of orders, computed by hand."""

import csv
import re

import pytest

from dyrate.analysis.measurements import load
from dyrate.analysis.paired import Answers
from dyrate.analysis.ranking import agreements, rankings
from dyrate.report import csv_files
from dyrate.report.page import report_pages
from dyrate.report.ranking import by_budget, stability
from dyrate.speed import documents
from dyrate.study import Study
from tests.pipeline.conftest import REPOSITORY
from tests.report import test_equal_budget
from tests.report.test_equal_budget import RIGHT, SHARES, write

METHODS = [
    {"name": "none"},
    {"name": "fastv", "layer": 2, "rate": 0.25},
    {"name": "fastv", "layer": 2, "rate": 0.75, "group": "methods"},
    {"name": "fixed_prune", "layer": 2, "rate": 0.5, "prune_prefill": False},
    {"name": "dyrate", "predictor": "default", "layer": 2},
    {"name": "visionzip", "budget": 0.5, "group": "methods"},
    {"name": "text_only", "group": "methods"},
    {"name": "random", "layer": 0, "rate": 0.9, "group": "methods"},
]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(test_equal_budget, "RIGHT", {**RIGHT, "visionzip": 39, "text_only": 4, "0.9": 30})
    study = Study.of(
        {
            "study": "small",
            "models": [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}],
            "predictors": [{"name": "default"}],
            "methods": METHODS,
            "benchmarks": ["gqa", "vizwiz"],
            "rank_at": [0.5, 0.3],
        }
    )
    shares = {"visionzip": (0.51, 0.51), "text_only": (0, 0), "0.9": (0.45, 0.45)}
    write(study, tmp_path, {**SHARES, **shares})
    return study


def places(ranking):
    return {place.name: place for place in ranking.places}


def test_every_method_is_set_to_the_budget(study):
    half, *_ = rankings(load(study), (0.5,), Answers(0))
    found = places(half)

    assert half.model == "a"
    # 0.5 is 1/4 of 0.8 and 3/4 of 0.4, so 1/4 of 36 and 3/4 of 20; without an image half of 40 and of 4.
    assert found["FastV (K=2)"].kept["value"] == pytest.approx((36 / 4 + 20 * 3 / 4) / 0.4)
    assert found["text_only"].kept["value"] == pytest.approx((40 + 4) / 2 / 0.4)
    assert found["random (K=0, R=0.9)"].kept["value"] == pytest.approx(
        (40 * 0.05 / 0.55 + 30 * 0.5 / 0.55) / 0.4
    )
    assert found["DyRate"].kept["value"] == pytest.approx(32 / 0.4)
    # Its leanest setting spends hardly more, and stands for itself.
    assert found["visionzip (budget=0.5)"].kept["value"] == pytest.approx(39 / 0.4)
    assert found["visionzip (budget=0.5)"].spent == pytest.approx(0.51)
    assert not any(name.startswith("fixed_prune") for name in found), "it drops nothing at prefill"
    controls = [place.control for place in half.places if place.name.startswith(("random", "text"))]
    assert controls == [True, True]


def test_it_is_by_the_benchmarks_that_the_group_is_asked(study, tmp_path):
    fewer = [{**one, "benchmarks": ["gqa"]} if one.get("group") == "methods" else one for one in METHODS]
    study = Study.of({**study.config, "study": "fewer", "methods": fewer})
    shares = {"visionzip": (0.51, 0.51), "text_only": (0, 0), "0.9": (0.45, 0.45)}
    write(study, tmp_path, {**SHARES, **shares})

    half, *_ = rankings(load(study), (0.5,), Answers(0))

    assert half.benchmarks == ("gqa",)
    assert {"FastV (K=2)", "DyRate", "visionzip (budget=0.5)", "text_only"} <= set(places(half))
    assert not half.left_out.keys() & set(places(half))


def test_what_spends_far_more_is_not_ranked(study):
    assert not rankings(load(study), (0.3,), Answers(0)), "text_only alone is no ranking"
    lean, *_ = rankings(load(study), (0.39,), Answers(0))

    assert set(places(lean)) == {"text_only", "FastV (K=2)"}
    assert lean.left_out["visionzip (budget=0.5)"] == "its leanest setting spends 51% on gqa"
    assert set(lean.left_out) == {
        "visionzip (budget=0.5)",
        "random (K=0, R=0.9)",
        "fixed_prune (K=2, R=0.5, prune_prefill=False)",
        "DyRate",
    }


def test_a_method_without_answers_is_named(study, tmp_path):
    for path in tmp_path.rglob("visionzip*/*.parquet"):
        path.unlink()
    half, *_ = rankings(load(study), (0.5,), Answers(0))

    assert half.left_out["visionzip (budget=0.5)"] == "no answers or no counts of tokens on gqa"


def test_what_ran_in_another_dtype_is_not_ranked_and_is_named_with_the_reason(study):
    measurements = load(study)
    for m in (m for m in measurements if m.method == "visionzip"):
        m.result["meta"]["dtype"] = "bfloat16"

    half, *_ = rankings(measurements, (0.5,), Answers(0))

    said = "it ran in bfloat16, the unpruned model in float32"
    assert half.left_out["visionzip (budget=0.5)"] == said
    assert "FastV (K=2)" in places(half)


def test_methods_that_do_not_differ_for_sure_share_their_ranks(study):
    half, *_ = rankings(load(study), (0.5,), Answers(0))
    found = places(half)

    best = half.places[0]
    assert best.name == "visionzip (budget=0.5)"
    assert half.ranks(best)[0] == 1
    # 39 of 40 items against 24 in two benchmarks: sure, whatever the number of pairs. 22 and 24: not.
    assert (best.name, "FastV (K=2)") in half.sure
    assert not {("FastV (K=2)", "text_only"), ("text_only", "FastV (K=2)")} & half.sure
    assert half.ranks(found["FastV (K=2)"])[1] == len(half.places)
    assert half.ties + len(half.sure) == len(half.places) * (len(half.places) - 1) // 2


def test_the_same_results_on_two_models_give_one_order(study):
    a, b = rankings(load(study), (0.5,), Answers(0))
    (both,) = agreements([a, b])

    assert (both.methods, both.tau, both.reversed) == (len(a.places), 1.0, 0)
    (line,) = stability([a, b])
    assert line.startswith("a at 50% and b at 50%: Kendall's tau 1.00")


@pytest.mark.slow
def test_the_csv_and_the_page_have_every_place(study, tmp_path):
    measurements = load(study)
    found = rankings(measurements, study.typed.rank_at, Answers(0))

    ranked = [(r, place) for r in found for place in r.places]
    csv_files.write(csv_files.LISTED["ranking"].sheet(ranked), tmp_path / "ranking.csv")
    lines = list(csv.DictReader((tmp_path / "ranking.csv").read_text().splitlines()))
    page = report_pages(study, measurements)["budget.html"]

    assert len(lines) == sum(len(ranking.places) for ranking in found)
    assert lines[0]["method"] == "visionzip (budget=0.5)"
    section = page[page.index('id="ranking"') :]
    for at in by_budget(found):
        for _, name, _ in at.lines:
            assert name in section
    assert re.search(r"Kendall&#39;s tau 1\.00", section)


def test_quality_stands_against_the_time_of_the_same_method_at_the_same_budget(study):
    benches = documents.read(documents.paths(REPOSITORY / documents.METHODS)).benches
    half, other = by_budget(rankings(load(study), (0.5, 0.4), Answers(0)))
    numbers = {name: at for at, name, _ in half.lines}

    bench = next(bench for bench in benches if any(row.name == "FastV (K=2, B=0.5)" for row in bench.rows))
    rows = {row.name: row for row in bench.under(bench.loads[0])}
    whole = rows["Unpruned"].whole_ms.median
    points = list(half._points(tuple(rows.values()), rows["Unpruned"]))

    fastv = 100 * rows["FastV (K=2, B=0.5)"].whole_ms.median / whole
    assert [(time, at, model) for at, _, model, _, time in points if at == numbers["FastV (K=2)"]] == [
        (fastv, numbers["FastV (K=2)"], 0),
        (fastv, numbers["FastV (K=2)"], 1),
    ]
    assert numbers["DyRate"] in {at for at, *_ in points}, "its rate, replayed"
    assert numbers["text_only"] not in {at for at, *_ in points}, "nobody timed it"
    pictures = [caption for caption, _ in half.costs(benches)]
    assert len(pictures) == 2
    assert all("64 new tokens" in caption for caption in pictures)
    assert not list(other.costs(benches))


def test_without_budgets_there_is_no_section(study):
    study.typed.__dict__["rank_at"] = ()
    assert 'id="ranking"' not in "".join(report_pages(study, load(study)).values())
