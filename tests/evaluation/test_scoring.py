"""Scores: their statistic is lmms-eval's, their units are what is independent, differences are paired."""

import random

import pytest
from lmms_eval.tasks.mmbench import en_utils as mmbench
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.pope import utils as pope

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.scoring import Sample, differences, sample_scores, scores, to_units

SEED, RESAMPLES = 0, 300


def _samples(benchmark: str, metrics: list[dict]) -> list[Sample]:
    made = []
    for row, one in enumerate(metrics):
        unit, stratum, numbers = sample_scores(BENCHMARKS[benchmark], one)
        made.append(Sample(row, unit or str(row), stratum, "?", "", [], numbers))
    return made


def _match(values: list[float]) -> list[Sample]:
    return _samples("gqa", [{"exact_match": value} for value in values])


def test_pope_metrics_are_lmms_evals_and_the_yes_ratio_is_the_models() -> None:
    random.seed(0)
    answers = [random.choice(["yes", "no", "no", "blue"]) for _ in range(40)]
    documents = [{"question_id": i, "answer": random.choice(["yes", "no"])} for i in range(40)]
    metrics = [pope.pope_process_results(d, [a]) for d, a in zip(documents, answers, strict=True)]
    rows = [one["pope_accuracy"] for one in metrics]
    harness = {
        f"pope_{name}": getattr(pope, f"pope_aggregate_{name}")(rows)
        for name in ("accuracy", "precision", "recall", "f1_score")
    }
    found = scores(BENCHMARKS["pope"], _samples("pope", metrics), harness, SEED, RESAMPLES)
    assert list(found) == ["accuracy", "precision", "recall", "f1", "yes_ratio"]
    assert found["f1"]["value"] == pytest.approx(100 * harness["pope_f1_score"])
    assert found["yes_ratio"]["value"] == pytest.approx(100 * answers.count("yes") / 40)
    assert found["yes_ratio"]["higher_is_better"] is None
    for score in found.values():
        assert score["low"] <= score["value"] <= score["high"]


def test_mme_is_resampled_by_pairs_within_categories() -> None:
    random.seed(1)
    metrics = [
        mme.mme_process_results(
            {"question_id": f"{category}{pair}", "category": category, "answer": answer}, [said]
        )
        for category in ("color", "OCR", "code_reasoning")
        for pair in range(10)
        for answer, said in (("yes", random.choice(["Yes", "no"])), ("no", random.choice(["No.", "maybe"])))
    ]
    harness = {
        name: mme.mme_aggregate_results([one[name] for one in metrics if name in one])
        for name in ("mme_perception_score", "mme_cognition_score")
    }
    samples = _samples("mme", metrics)
    units = to_units(BENCHMARKS["mme"], samples)
    assert (len(units), len(units.strata)) == (30, 3)
    found = scores(BENCHMARKS["mme"], samples, harness, SEED, RESAMPLES)
    assert found["score"]["value"] == pytest.approx(sum(harness.values()))
    assert found["perception"]["value"] + found["cognition"]["value"] == pytest.approx(
        found["score"]["value"]
    )
    assert found["score"]["low"] < found["score"]["value"] < found["score"]["high"]


def test_mme_of_one_kind_of_category_has_no_score_of_the_other() -> None:
    metrics = [
        mme.mme_process_results({"question_id": "a", "category": "color", "answer": answer}, [answer])
        for answer in ("yes", "no")
    ]
    found = scores(
        BENCHMARKS["mme"], _samples("mme", metrics), {"mme_perception_score": 200.0}, SEED, RESAMPLES
    )
    assert list(found) == ["score", "perception"]


def test_mmb_counts_a_question_that_is_right_in_every_rotation() -> None:
    random.seed(2)
    said = ["A", "B.", "(C)", "the answer is D", "red", "", "A B", "nothing"]
    metrics = [
        mmbench.mmbench_process_results(
            {
                "index": question + turn * 1_000_000,
                "question": "?",
                "answer": "ABCD"[turn],
                "hint": "nan",
                "source": "",
                "split": "dev",
                "category": "color",
                "L2-category": "perception",
                **dict(zip("ABCD", ("red", "green", "blue", "grey"), strict=True)),
            },
            ["ABCD"[turn] if random.random() < 0.8 else random.choice(said)],
        )
        for question in range(30)
        for turn in range(4)
    ]
    accuracy, _, _ = mmbench.mmbench_evaluator.eval_result(
        [one["gpt_eval_score"] for one in metrics], eval_method="static"
    )
    assert 0 < accuracy < 1
    samples = _samples("mmb", metrics)
    assert len(to_units(BENCHMARKS["mmb"], samples)) == 30
    found = scores(BENCHMARKS["mmb"], samples, {"gpt_eval_score": 100 * accuracy}, SEED, RESAMPLES)
    assert found["accuracy"]["value"] == pytest.approx(100 * accuracy)


def _mme(pairs: int, answer: str) -> tuple[list[Sample], dict[str, float]]:
    metrics = [
        mme.mme_process_results(
            {"question_id": f"{category}{pair}", "category": category, "answer": truth}, [answer or truth]
        )
        for category in ("color", "OCR")
        for pair in range(pairs)
        for truth in ("yes", "no")
    ]
    harness = mme.mme_aggregate_results([one["mme_perception_score"] for one in metrics])
    return _samples("mme", metrics), {"mme_perception_score": harness}


@pytest.mark.parametrize("pairs", [1, 3])
def test_units_without_spread_give_no_interval_and_no_significant_difference(pairs: int) -> None:
    (right, harness), (wrong, _) = _mme(pairs, ""), _mme(pairs, "maybe")
    found = scores(BENCHMARKS["mme"], right, harness, SEED, RESAMPLES)["score"]
    assert (found["value"], found["low"], found["high"]) == (400, None, None)
    change = differences(BENCHMARKS["mme"], wrong, right, SEED, RESAMPLES)["score"]
    assert change == {"value": -400, "low": None, "high": None}


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 83.157, 100), (0.0, 0, 16.843)])
def test_a_share_of_all_or_none_has_the_exact_interval(value: float, low: float, high: float) -> None:
    found = scores(BENCHMARKS["gqa"], _match([value] * 20), {"exact_match": value}, SEED, RESAMPLES)
    score = found["exact_match"]
    assert (score["low"], score["high"]) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_a_score_that_its_samples_do_not_give_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the interval would be of another number"):
        scores(BENCHMARKS["gqa"], _match([1, 0]), {"exact_match": 0.6}, SEED, RESAMPLES)


def test_a_paired_difference_is_narrower_than_the_scores_and_zero_against_itself() -> None:
    random.seed(3)
    base = [float(random.random() < 0.6) for _ in range(300)]
    worse = [value if random.random() < 0.95 else 0.0 for value in base]
    benchmark = BENCHMARKS["gqa"]
    paired = differences(benchmark, _match(worse), _match(base), SEED, RESAMPLES)["exact_match"]
    alone = scores(benchmark, _match(worse), {"exact_match": sum(worse) / 300}, SEED, RESAMPLES)[
        "exact_match"
    ]
    assert paired["value"] == pytest.approx(100 * (sum(worse) - sum(base)) / 300)
    assert paired["low"] <= paired["value"] <= paired["high"] <= 0
    assert paired["high"] - paired["low"] < (alone["high"] - alone["low"]) / 2
    itself = differences(benchmark, _match(base), _match(base), SEED, RESAMPLES)["exact_match"]
    assert (itself["value"], itself["low"], itself["high"]) == (0, 0, 0)


def test_differences_are_joined_by_sample_not_by_order() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0] * 5
    base = _match(values)
    found = differences(BENCHMARKS["gqa"], _match(values), base[::-1], SEED, RESAMPLES)
    assert found["exact_match"] == {"value": 0, "low": 0, "high": 0}


def test_a_baseline_of_other_samples_or_prompts_is_refused() -> None:
    benchmark = BENCHMARKS["gqa"]
    with pytest.raises(DyrateError, match="answered 2 samples of gqa, and not the same ones"):
        differences(benchmark, _match([1, 0, 1]), _match([1, 0]), SEED, RESAMPLES)
    other = _match([1, 0])
    other[1].prompt = "another"
    with pytest.raises(DyrateError, match="prompts of gqa differ, first in sample 1"):
        differences(benchmark, _match([1, 0]), other, SEED, RESAMPLES)
