"""The comparison at equal budget, on results small enough to compute by hand."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dyrate.analysis.claims import kept_of_unpruned
from dyrate.analysis.equal_budget import (
    Point,
    Standing,
    families,
    mix,
    phase_of,
    spent,
    standings,
)
from dyrate.analysis.measurement import Budget
from dyrate.analysis.measurements import load
from dyrate.analysis.paired import Answers, Gap
from dyrate.analysis.pareto import curves
from dyrate.evaluation import answers
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import csv_files
from dyrate.study import Study
from tests.report import fake

DOCS = 40
METHODS = [
    {"name": "none"},
    {"name": "fastv", "layer": 2, "rate": 0.25},
    {"name": "fastv", "layer": 2, "rate": 0.75},
    {"name": "fixed_prune", "layer": 2, "rate": 0.5, "prune_prefill": False},
    {"name": "dyrate", "predictor": "default", "layer": 2},
]
# Which of the 40 questions each method answers rightly: the first so many.
RIGHT = {"none": 40, "0.25": 36, "0.75": 20, "0.5": 38, "default": 32, "lean": 30, "lavish": 12}


def name_of(spec):
    return str(spec.get("rate", Path(spec.get("predictor", spec["name"])).name))


def write(study, folder, shares):
    """Results whose layers all see `shares[name]`: (prefill, decode), on 40 samples per benchmark."""
    fake.write_study(study, folder, images=False)
    for job in study.jobs:
        path, name = folder / job.result, name_of(job.spec)
        result = json.loads(path.read_text())
        for found in result["benchmarks"].values():
            prefill, decode = shares[name]
            found["visual_tokens"] = {
                "total": 100.0,
                "prefill": [100.0 * prefill] * 4,
                "decode": None if decode is None else [100.0 * decode] * 4,
            }
        path.write_text(json.dumps(result))
        samples = {}
        for benchmark in job.method.benchmarks:
            kind = BENCHMARKS[benchmark].kind
            samples[benchmark] = [
                answers.Sample(i, str(i), "", "q", "a", ["a"], fake.sample_scores(kind, i < RIGHT[name]))
                for i in range(DOCS)
            ]
        answers.write(path.with_name("greedy.answers.parquet"), samples)


SHARES = {"none": (1, 1), "0.25": (0.8, 0.8), "0.75": (0.4, 0.4), "0.5": (1, 0.6), "default": (0.5, 0.7)}


@pytest.fixture
def compare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(**shares):
        study = Study.of(
            {
                "study": "small",
                "models": [{"name": "a", "path": "a"}],
                "predictors": [{"name": "default"}],
                "methods": METHODS,
                "benchmarks": ["gqa", "nocaps"],
            }
        )
        write(study, tmp_path, {**SHARES, **shares})
        measurements = load(study)
        return measurements, standings(measurements, Answers(0))

    return run


def standing(found, competitor):
    return next(s for s in found if s.competitor == competitor)


def test_a_competitor_between_two_budgets_plays_the_mixture_that_spends_the_same(compare):
    _, found = compare()

    gqa = standing(found, "FastV (K=2)").on("gqa")

    # 0.5 = 1/4 of 0.8 + 3/4 of 0.4, so the score is 1/4 of 90 + 3/4 of 50.
    assert [(round(w, 9), m.label) for w, m in gqa.parts] == [
        (0.25, "FastV (K=2, R=0.25)"),
        (0.75, "FastV (K=2, R=0.75)"),
    ]
    assert gqa.budget == pytest.approx(0.5)
    assert gqa.score == pytest.approx(80)
    assert gqa.competitor_score == pytest.approx(60)
    assert gqa.difference["value"] == pytest.approx(20)


def test_the_interval_is_that_of_the_mixture_played_item_by_item(compare):
    _, found = compare()
    gqa = standing(found, "FastV (K=2)").on("gqa")
    columns = {name: (np.arange(DOCS) < RIGHT[name]).astype(float) for name in ("default", "0.25", "0.75")}
    per_item = 100 * (columns["default"] - 0.25 * columns["0.25"] - 0.75 * columns["0.75"])

    chance = np.random.default_rng(1)
    means = per_item[chance.integers(0, DOCS, (20000, DOCS))].mean(1)

    assert gqa.difference["low"] == pytest.approx(np.quantile(means, 0.025), abs=1.5)
    assert gqa.difference["high"] == pytest.approx(np.quantile(means, 0.975), abs=1.5)
    assert gqa.verdict == "win"


@pytest.mark.parametrize(("method", "left"), [("fastv", ["fixed_prune"]), ("dyrate", [])])
def test_nothing_is_compared_or_drawn_with_what_ran_in_another_dtype(compare, method, left):
    measurements, _ = compare(default=(1, 0.7))  # as much at prefill as either competitor has somewhere
    for m in (m for m in measurements if m.method == method):
        m.result["meta"]["dtype"] = "bfloat16"
        for found in m.result["benchmarks"].values():
            found["difference"] = None
    own = Answers(0)

    own.compare(measurements)

    assert [s.competitor.partition(" (")[0] for s in standings(measurements, own)] == left
    assert not any(label.lower().startswith(method) for label in curves("a", measurements, "nocaps"))
    apart = [m for m in measurements if m.uncompared]
    assert {m.method for m in apart} == {method}
    assert apart[0].uncompared["gqa"] == "it ran in bfloat16, the unpruned model in float32"
    assert kept_of_unpruned(apart[0], ["gqa"], own) is None


def test_on_captions_a_competitor_gets_the_larger_one_of_dyrates_shares(compare):
    _, found = compare()

    nocaps = standing(found, "FastV (K=2)").on("nocaps")

    assert (nocaps.phase, nocaps.budget) == ("both", pytest.approx(0.7))


def test_what_a_competitor_keeps_at_prefill_alone_buys_it_nothing_at_decode(compare):
    """The competitor with a whole prefill counts by its smaller share, so it never has fewer tokens."""
    _, found = compare()

    nocaps = standing(found, "fixed_prune (K=2, R=0.5, prune_prefill=False)").on("nocaps")

    assert nocaps.budget == pytest.approx(0.7)
    assert {m.label.partition(" ")[0]: round(w, 9) for w, m in nocaps.parts} == {
        "Unpruned": 0.25,
        "fixed_prune": 0.75,
    }


def test_dyrate_with_a_whole_prefill_meets_only_others_with_a_whole_prefill(compare):
    _, found = compare(default=(1.0, 0.7))

    assert {s.competitor: [c.benchmark for c in s.comparisons] for s in found} == {
        "fixed_prune (K=2, R=0.5, prune_prefill=False)": ["nocaps"]
    }
    assert found[0].comparisons[0].phase == "decode"


@pytest.mark.parametrize(
    ("shares", "uneven"), [((0.5, 0.7), True), ((0.5, 0.55), False), ((1.0, 0.7), False)]
)
def test_a_budget_far_above_dyrates_own_in_one_phase_is_told(compare, shares, uneven):
    _, found = compare(default=shares)

    comparisons = [c for s in found for c in s.comparisons]
    assert {c.uneven for c in comparisons if c.benchmark == "nocaps"} == {uneven}
    assert {c.uneven for c in comparisons if c.benchmark == "gqa"} <= {False}


def test_below_a_competitors_leanest_setting_there_is_no_comparison(compare):
    _, found = compare(default=(0.3, 0.3))

    assert not found


def test_at_the_unpruned_models_budget_the_difference_is_that_to_the_unpruned_model(compare):
    measurements, found = compare(default=(1 - 1e-12, 1 - 1e-12), **{"0.5": (1, 1)})
    assert not found  # nothing is saved, so there is nothing to compare

    unpruned, *_, dyrate = measurements
    _, found = compare(default=(0.9999, 0.9999))
    gap = standing(found, "FastV (K=2)").on("gqa").difference

    paired = Answers(0).difference(dyrate, unpruned, "gqa")
    for key in ("value", "low", "high"):
        assert gap[key] == pytest.approx(paired[key], abs=0.02)


def test_answers_give_the_difference_that_the_evaluation_gives(compare):
    from dyrate.evaluation.benchmarks import BENCHMARKS
    from dyrate.evaluation.scoring import differences

    measurements, _ = compare()
    unpruned, *_, dyrate = measurements
    mine, theirs = (answers.read(m.files.answers) for m in (dyrate, unpruned))

    stored = differences(BENCHMARKS["nocaps"], mine["nocaps"], theirs["nocaps"], 0, 2000)["CIDEr"]

    assert Answers(0).difference(dyrate, unpruned, "nocaps") == stored


def test_without_answers_nothing_is_compared(compare, tmp_path):
    measurements, _ = compare()
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()

    assert standings(measurements, Answers(0)) == ()


def test_a_familys_name_is_what_its_settings_share(compare):
    measurements, _ = compare()

    assert {name: len(found) for name, found in families(measurements).items()} == {
        "FastV (K=2)": 2,
        "fixed_prune (K=2, R=0.5, prune_prefill=False)": 1,
    }


def test_a_method_without_a_rate_is_one_family_over_its_layers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = [{"name": "none"}, {"name": "vtw", "layer": 3}, {"name": "vtw", "layer": 6}]
    study = Study.of({**fake.CONFIG, "methods": methods, "models": fake.CONFIG["models"][:1]})
    fake.write_study(study, tmp_path, images=False)

    assert list(families(load(study))) == ["VTW"]


def test_what_sets_a_budget_is_all_that_a_familys_settings_differ_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = [
        {"name": "none"},
        {"name": "visionpulse", "anchor": 2, "most": 0.1},
        {"name": "visionpulse", "anchor": 2, "most": 0.6, "temperature": 1.0},
        {"name": "visionpulse", "anchor": 3, "most": 0.6},
        {"name": "fastv", "layer": 2, "rate": 0.5},
        {"name": "fastv", "layer": 2, "budget": 0.3},
        {"name": "dyrate", "layer": 2, "predictor": "a"},
        {"name": "dyrate", "layer": 2, "predictor": "a", "rates": "schedule"},
        {"name": "dyrate", "layer": 2, "predictor": "b", "rates": "schedule"},
        {"name": "dyrate", "layer": 3, "predictor": "b", "rates": "schedule", "group": "predictor"},
        {"name": "trim", "group": "methods", "budget": 0.3},
    ]
    predictors = [{"name": "a"}, {"name": "b"}]
    study = Study.of(
        {**fake.CONFIG, "methods": methods, "predictors": predictors, "models": fake.CONFIG["models"][:1]}
    )
    fake.write_study(study, tmp_path, images=False)
    measurements = load(study)

    assert [len(settings) for settings in families(measurements).values()] == [2, 1, 2, 2, 1]
    compared = {s.competitor for s in standings(measurements, Answers(0))}
    assert any("schedule" in name for name in compared), "what a predictor learned competes with its means"
    assert not any("trim" in name for name in compared), "it is there to be ranked alone"
    assert not any(s.mine.replays for s in standings(measurements, Answers(0))), "nor with themselves"


@pytest.mark.parametrize(
    ("budget", "benchmark", "phase"),
    [
        (Budget(0.5, None), "gqa", "prefill"),
        (Budget(0.5, 0.2), "gqa", "prefill"),
        (Budget(0.5, 0.2), "nocaps", "both"),
        (Budget(1.0, 0.2), "nocaps", "decode"),
        (Budget(1.0, 0.2), "textvqa", "decode"),
        (Budget(1.0, None), "textvqa", None),
        (Budget(1.0, 0.2), "gqa", None),
        (Budget(1.0, 1.0), "nocaps", None),
        (Budget(None, None), "nocaps", None),
    ],
)
def test_the_phase_that_counts(budget, benchmark, phase):
    assert phase_of(budget, benchmark) == phase


def test_of_two_shares_dyrates_larger_and_the_others_smaller_one_counts():
    assert spent(Budget(0.5, 0.3), "both", mine=True) == 0.5
    assert spent(Budget(0.5, 0.3), "both") == 0.3
    assert spent(Budget(0.5, 0.3), "decode") is None


def test_a_budget_that_a_setting_has_is_that_setting_alone():
    curve = [Point(None, at, None) for at in (0.25, 0.5, 1.0)]

    assert mix(curve, 0.5) == [(1.0, curve[1])]
    assert mix(curve, 0.2) is None


def test_the_csv_has_one_line_per_competitor_and_benchmark(compare, tmp_path):
    _, found = compare()
    compared = [c for s in found for c in s.comparisons]
    csv_files.write(csv_files.LISTED["equal_budget"].sheet(compared), tmp_path / "equal_budget.csv")

    lines = list(csv.DictReader((tmp_path / "equal_budget.csv").read_text().splitlines()))

    assert [(line["competitor"], line["benchmark"]) for line in lines] == [
        ("FastV (K=2)", "gqa"),
        ("FastV (K=2)", "nocaps"),
        ("fixed_prune (K=2, R=0.5, prune_prefill=False)", "nocaps"),
    ]
    assert lines[0]["mixture"] == "0.2500 FastV (K=2, R=0.25) + 0.7500 FastV (K=2, R=0.75)"
    assert float(lines[0]["value"]) - float(lines[0]["competitor_value"]) == pytest.approx(20)
    assert lines[0]["verdict"] == "win"


@pytest.mark.parametrize(
    ("p_values", "wins"),
    [
        ((0.01, 0.02, 0.04), 3),  # 0.03, 0.04, 0.04
        ((0.02, 0.03, 0.04), 0),  # the first fails: 0.06
        ((0.001, 0.03, 0.04), 1),  # 0.003, then 0.06 ends it
        ((0.04,), 1),
        ((), 0),
    ],
)
def test_holms_correction(p_values, wins):
    def comparison(p_value):
        gap = SimpleNamespace(p_value=p_value)
        return SimpleNamespace(gap=gap, difference={"value": 1.0, "low": 0.5, "high": 2.0}, verdict="win")

    found = Standing(None, "x", (), tuple(comparison(p) for p in p_values))
    assert (found.holm("win"), found.holm("loss")) == (wins, 0)


def test_the_p_value_of_a_gap_is_two_sided_and_never_zero():
    def gap(draws):
        return Gap({"value": 0.0, "low": None, "high": None}, np.array(draws)).p_value

    assert gap([1.0] * 999) == pytest.approx(0.002)
    assert gap([1.0] * 900 + [-1.0] * 99) == pytest.approx(0.2)
    assert gap([-1.0] * 900 + [1.0] * 99) == pytest.approx(0.2)
    assert gap([0.0] * 10) == 1.0
