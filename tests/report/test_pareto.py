"""The Pareto figure's curves: which settings they go through, and where these stand."""

import json

import pytest

from dyrate.analysis.measurements import load
from dyrate.analysis.pareto import averaged, curves, sweeps
from dyrate.report.looks import looks
from dyrate.study import Study
from tests.report import fake

METHODS = [
    {"name": "none"},
    {"name": "fastv", "layer": 2, "rate": 0.5},
    {"name": "fixed_prune", "layer": 2, "rate": 0.5, "prune_prefill": False, "benchmarks": ["nocaps"]},
    {"name": "dyrate", "predictor": "default", "layer": 2},
]


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study.of(
        {
            "study": "small",
            "models": [{"name": "a", "path": "a"}],
            "predictors": [{"name": "default"}],
            "methods": METHODS,
            "benchmarks": ["gqa", "nocaps"],
        }
    )
    fake.write_study(study, tmp_path, images=False)
    for job in study.jobs:
        path = tmp_path / job.result
        result = json.loads(path.read_text())
        share = 1.0 if job.method.name == "none" else 0.5
        for found in result["benchmarks"].values():
            found["visual_tokens"] = {"total": 10.0, "prefill": [10 * share], "decode": [10 * share]}
            score = found["scores"][found["primary"]]
            score["value"] = 80.0 if share == 1 else 60.0
        path.write_text(json.dumps(result))
    return load(study)


def test_a_setting_of_captions_only_does_not_shrink_the_mean_over_all(measurements):
    assert averaged("a", measurements) == ("gqa", "nocaps")

    found = curves("a", measurements, None)

    assert set(found) == {"DyRate", "FastV (K=2, R=0.5)"}
    assert found["DyRate"] == ((0.5, 75.0),)
    assert found["FastV (K=2, R=0.5)"] == ((0.5, 75.0), (1.0, 100.0))


def test_a_line_of_dyrates_is_one_recipe_over_lambda(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learned = {"layer": 2, "ranking": "mlp"}
    study = Study.of(
        {
            "study": "small",
            "models": [{"name": "a", "path": "a"}],
            "predictors": [
                {**learned, "name": "learned", "budget_weight": 0.5},
                {**learned, "name": "lean", "budget_weight": 2.0, "history": 8},  # no window: without effect
                {**learned, "name": "papers", "ranking": "attention"},
            ],
            "methods": [
                {"name": "none"},
                {"name": "dyrate", "predictor": "learned", "layer": 2},
                {"name": "dyrate", "predictor": "papers", "layer": 2},
                {"name": "dyrate", "predictor": "lean", "layer": 2, "group": "budget"},
                {"name": "dyrate", "predictor": "lean", "layer": 2, "mode": "evict", "group": "budget"},
            ],
            "benchmarks": ["gqa"],
        }
    )
    fake.write_study(study, tmp_path, images=False)

    found = sweeps(load(study))

    assert {label: len(settings) for label, settings in found.items()} == {
        "DyRate+": 2,
        "DyRate": 1,
        "DyRate+, lean": 1,
    }


def test_dyrates_colour_is_its_own(measurements):
    found = looks(measurements)
    others = [look for name, look in found.items() if name not in ("DyRate", "DyRate+", "none")]

    assert (found["DyRate"].number, found["DyRate+"].number) == (0, 1)
    assert not {look.number for look in others} & {0, 1}
    drawn = [(look.shape, look.number, look.control) for look in found.values()]
    assert len(set(drawn)) == len(drawn)


def test_on_its_own_benchmark_it_has_its_curve(measurements):
    found = curves("a", measurements, "nocaps")

    assert any("fixed_prune" in label for label in found), list(found)
    assert all((0.5, 60.0) in curve for curve in found.values())
