"""Which evaluations share a process, and that no two processes wait for each other."""

import json

import pytest

from dyrate.evaluation.job import Evaluation
from dyrate.study import Study, StudyError

NONE, FASTV = {"name": "none"}, {"name": "fastv", "layer": 2}
CONFIG = {
    "study": "small",
    "models": [{"name": "a", "path": "models/a"}, {"name": "b", "path": "some/hub-id"}],
    "predictors": [{"name": "default", "layer": 2}],
    "methods": [
        {**FASTV, "rate": 0.25},
        NONE,
        {**FASTV, "rate": 0.5},
        {**FASTV, "rate": 0.75},
        {**FASTV, "rate": 0.9, "group": "budget", "benchmarks": ["gqa"]},
        {**FASTV, "rate": 0.8, "group": "budget", "models": ["b"]},
    ],
    "benchmarks": ["gqa", "pope"],
    "sweep": 2,
}
# Each group has pruned jobs whose unpruned one stands in the other.
CROSSED = [
    NONE,
    {**FASTV, "rate": 0.5, "decodings": ["greedy", "beam-2", "top_p"]},
    {**NONE, "decodings": ["beam-2", "top_p"], "group": "decoding"},
    {**FASTV, "rate": 0.75, "decodings": ["top_p", "greedy", "beam-2"], "group": "decoding"},
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shared(study):
    return {sweep.name: [job.method.slug for job in sweep.jobs] for sweep in study.sweeps}


def test_by_itself_each_job_has_its_own_process():
    study = Study.of({key: value for key, value in CONFIG.items() if key != "sweep"})

    assert sorted(job.result for sweep in study.sweeps for job in sweep.jobs) == sorted(study.results)
    assert {len(sweep.jobs) for sweep in study.sweeps} == {1}


def test_a_process_has_one_model_and_one_group_and_the_unpruned_model_one_to_itself():
    rate = "fastv-layer=2-rate=0.{}".format

    assert shared(Study.of(CONFIG)) == {
        "a_main_1": [rate(25), rate(5)],
        "a_main_2": [rate(75)],
        "a_main_3": ["none"],
        "a_budget_1": [rate(9)],
        "b_main_1": [rate(25), rate(5)],
        "b_main_2": [rate(75)],
        "b_main_3": ["none"],
        "b_budget_1": [rate(9), rate(8)],
    }


def test_a_new_method_moves_no_other_group():
    methods = [{**FASTV, "rate": 0.1}, *CONFIG["methods"]]
    before, after = shared(Study.of(CONFIG)), shared(Study.of({**CONFIG, "methods": methods}))

    assert before["a_main_1"] != after["a_main_1"]
    assert {name for name in before if "budget" in name} == {
        name for name in after if "budget" in name and before[name] == after[name]
    }


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_no_process_waits_for_another(size):
    study = Study.of({**CONFIG, "methods": CROSSED, "sweep": size})
    maker = {job.result: sweep.name for sweep in study.sweeps for job in sweep.jobs}

    asked = [Evaluation.of(entry) for sweep in study.sweeps for entry in json.loads(study.evaluations(sweep))]

    assert [job.baseline for job in asked] == [None] * len(study.jobs)
    assert len(maker) == len(study.jobs) == 18


def test_who_waits_for_a_training_waits_apart():
    dyrate = {"name": "dyrate", "predictor": "default", "layer": 2}
    study = Study.of({**CONFIG, "methods": [NONE, dyrate, {**FASTV, "rate": 0.5}], "sweep": 4})

    assert shared(study)["a_main_2"] == ["dyrate-layer=2-predictor=default"]
    assert shared(study)["a_main_3"] == ["fastv-layer=2-rate=0.5"]


def test_a_sweeps_file_asks_for_its_jobs():
    study = Study.of(CONFIG)
    sweep = study.sweeps[0]
    asked = [Evaluation.of(entry) for entry in json.loads(study.evaluations(sweep))]

    assert asked == [study.evaluation(job) for job in sweep.jobs]


def test_the_larger_model_and_the_most_benchmarks_come_first():
    study = Study.of(CONFIG)
    share = {sweep.name: study.share(sweep) for sweep in study.sweeps}

    assert sum(share.values()) == pytest.approx(1)
    assert share["b_main_1"] == 2 * share["a_main_1"] == 4 * share["a_main_2"]
    assert share["a_budget_1"] < share["a_main_2"] < share["b_budget_1"] < share["b_main_1"]


def test_what_others_wait_for_comes_before_what_is_longer_and_after_a_training():
    study = Study.of(CONFIG)
    order = sorted(study.sweeps, key=study.urgency, reverse=True)

    unpruned = [sweep.jobs[0].method.name == "none" for sweep in order]
    assert unpruned == sorted(unpruned, reverse=True)
    assert set(unpruned) == {True, False}
    for kind in (True, False):
        shares = [
            study.share(sweep) for sweep, is_kind in zip(order, unpruned, strict=True) if is_kind == kind
        ]
        assert shares == sorted(shares, reverse=True)
    assert all(0 < study.urgency(sweep) < 1 for sweep in study.sweeps)


def test_metrics_are_the_same_in_every_group():
    study = Study.of({**CONFIG, "metrics": "primary"})

    assert {study.evaluation(job).metrics for job in study.jobs} == {"primary"}
    assert "--metrics" not in Study.of(CONFIG).evaluation(study.jobs[0]).arguments()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sweep": 0}, "x: sweep: 0 is not a whole number from 1 on"),
        ({"sweep": "all"}, "x: sweep: 'all' is not a whole number"),
        ({"metrics": "some"}, "x: metrics: 'some' is not one of"),
    ],
)
def test_a_mistake_is_refused_with_its_place(change, complaint):
    with pytest.raises(StudyError) as refused:
        Study.of({**CONFIG, **change}, "x")

    assert complaint in str(refused.value)
