"""From lmms-eval's per-sample numbers to scores with intervals and paired differences.

A score's value is lmms-eval's own aggregate. Beside it stand columns of per-unit numbers whose statistic
gives the same value (checked for every score), so that the bootstrap resamples what the harness reports.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import MME_PERCEPTION, Benchmark
from dyrate.evaluation.intervals import (
    Array,
    Interval,
    Statistic,
    Units,
    bootstrap,
    difference_interval,
    estimate,
    score_interval,
)
from dyrate.evaluation.results import Difference, Score

Numbers = tuple[str | None, str, dict[str, float]]
"""Of one sample: its unit (None: the sample itself), its stratum, and its numbers by name."""


@dataclass
class Sample:
    """One answered sample: a line of the answers file."""

    doc_id: int  # row of the benchmark's data
    unit: str  # what the bootstrap resamples it with
    stratum: str
    prompt: str  # the task's text, before the chat template
    answer: str
    references: list[str]
    scores: dict[str, float] = field(default_factory=dict)
    category: str = ""  # as the data name it; empty where they do not


def sample_scores(benchmark: Benchmark, metrics: Mapping[str, Any]) -> Numbers:
    """What lmms-eval's `process_results` says of one sample.

    Caption benchmarks get their numbers from `captions.image_scores`, which needs all samples at once.
    """
    return _KINDS[benchmark.kind].sample(benchmark, metrics)


def to_units(benchmark: Benchmark, samples: Sequence[Sample]) -> Units:
    """Put samples together into what is resampled; units in the order of their first sample."""
    kind = _KINDS[benchmark.kind]
    grouped: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for sample in samples:
        grouped.setdefault((sample.stratum, sample.unit), []).append(sample.scores)
    strata = tuple(dict.fromkeys(stratum for stratum, _ in grouped))
    rows = [kind.unit(scores) for scores in grouped.values()]
    return Units(
        names=tuple("\0".join(key) for key in grouped),
        columns={name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]},
        stratum=np.array([strata.index(stratum) for stratum, _ in grouped], dtype=np.int64),
        strata=strata,
    )


def scores(
    benchmark: Benchmark, samples: Sequence[Sample], harness: Mapping[str, float], seed: int, resamples: int
) -> dict[str, Score]:
    """Every metric of a benchmark with its 95% interval; `harness` holds lmms-eval's aggregates."""
    units = to_units(benchmark, samples)
    statistics = _statistics(benchmark, units)
    draws = bootstrap(units, statistics, seed, resamples)
    result: dict[str, Score] = {}
    for metric in benchmark.metrics:
        ours = estimate(units, statistics[metric.name]) if metric.name in statistics else None
        parts = [harness[name] for name in metric.harness if name in harness]
        value = math.fsum(parts) * metric.scale if parts else ours
        if value is None:
            continue  # MME without a cognition category: there is nothing to report
        near = max(1e-9, metric.rounded * metric.scale)
        if ours is not None and not math.isclose(value, ours, rel_tol=1e-9, abs_tol=near):
            raise RuntimeError(
                f"{benchmark.name}: {metric.name} is {value} by lmms-eval and {ours} from its samples; "
                "the interval would be of another number"
            )
        low, high = _interval(benchmark, units, metric.name, draws)
        result[metric.name] = {
            "value": value,
            "low": low,
            "high": high,
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
        }
    return result


def differences(
    benchmark: Benchmark, samples: Sequence[Sample], baseline: Sequence[Sample], seed: int, resamples: int
) -> dict[str, Difference]:
    """Each metric minus the baseline's, over the same units in the same resamples.

    Raises `DyrateError` where the two did not answer the same samples.
    """
    theirs = {sample.doc_id: sample for sample in baseline}
    if theirs.keys() != {sample.doc_id for sample in samples}:
        raise DyrateError(
            f"the baseline answered {len(theirs)} samples of {benchmark.name}, and not the same ones as this "
            f"run's {len(samples)}: evaluate both with the same --samples and --data"
        )
    if changed := [sample.doc_id for sample in samples if theirs[sample.doc_id].prompt != sample.prompt]:
        raise DyrateError(f"the baseline's prompts of {benchmark.name} differ, first in sample {changed[0]}")
    ours = to_units(benchmark, samples)
    other = to_units(benchmark, [theirs[sample.doc_id] for sample in samples])
    statistics = _statistics(benchmark, ours)
    draws, other_draws = (bootstrap(units, statistics, seed, resamples) for units in (ours, other))
    result: dict[str, Difference] = {}
    for name, statistic in statistics.items():
        low, high = difference_interval(ours, draws[name] - other_draws[name])
        value = estimate(ours, statistic) - estimate(other, statistic)
        result[name] = {"value": value, "low": low, "high": high}
    return result


def primary_statistic(benchmark: Benchmark, units: Units) -> Statistic:
    """The metric that the tables show, in its unit; linear in the units' columns for every benchmark here."""
    return _statistics(benchmark, units)[benchmark.primary.name]


def _interval(benchmark: Benchmark, units: Units, metric: str, draws: Mapping[str, Array]) -> Interval:
    if metric not in draws:
        return None, None
    share = _KINDS[benchmark.kind].shares.get(metric)
    return score_interval(units, draws[metric], units.columns[share] if share else None)


@dataclass(frozen=True)
class _Score:
    """How one kind of benchmark is scored."""

    sample: Callable[[Benchmark, Mapping[str, Any]], Numbers]
    statistics: Callable[[Units], dict[str, Statistic]]
    unit: Callable[[Sequence[Mapping[str, float]]], Mapping[str, float]] = lambda rows: rows[0]
    shares: Mapping[str, str] = field(default_factory=dict)  # metric: the column whose mean in percent it is


def _statistics(benchmark: Benchmark, units: Units) -> dict[str, Statistic]:
    scale = {
        metric.name: 100.0 if metric.unit in ("percent", "x100") else 1.0 for metric in benchmark.metrics
    }

    def scaled(name: str, statistic: Statistic) -> Statistic:
        return lambda means: scale[name] * statistic(means)

    found = _KINDS[benchmark.kind].statistics(units)
    return {name: scaled(name, statistic) for name, statistic in found.items()}


def _mean_of(column: str) -> Statistic:
    return lambda means: means[column][..., 0]


def _sum_over(column: str, strata: Sequence[int]) -> Statistic:
    return lambda means: means[column][..., strata].sum(-1)


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _means(*columns: str) -> Callable[[Units], dict[str, Statistic]]:
    """Metrics that are the means of columns, whose names they have; of all columns where none is named."""
    return lambda units: {column: _mean_of(column) for column in columns or units.columns}


def _match_sample(benchmark: Benchmark, metrics: Mapping[str, Any]) -> Numbers:
    (name,) = benchmark.primary.harness
    return None, "", {benchmark.primary.name: float(metrics[name])}


def _strata_sample(benchmark: Benchmark, metrics: Mapping[str, Any]) -> Numbers:
    (name,) = benchmark.primary.harness
    entry = metrics[name]
    return None, str(entry[benchmark.stratum]), {benchmark.primary.name: float(entry["score"])}


def _strata_statistics(units: Units) -> dict[str, Statistic]:
    (name,) = units.columns
    return {name: lambda means: means[name].mean(-1)}


def _exam_sample(benchmark: Benchmark, metrics: Mapping[str, Any]) -> Numbers:
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

    _, found = evaluate_mmmu([metrics["mmmu_acc"]])
    return None, "", {"accuracy": float(found["acc"])}


def _yes_no_sample(_: Benchmark, metrics: Mapping[str, Any]) -> Numbers:
    entry = metrics["pope_accuracy"]
    said, truth = entry["prediction"], entry["ground_truth"]
    numbers = {
        "accuracy": float(entry["score"]),
        "yes": float(said == "yes"),
        "hit": float(said == "yes" and truth == "yes"),
        "miss": float(said == "no" and truth == "yes"),  # lmms-eval counts no other answer as a miss
    }
    return None, "", numbers


def _yes_no_statistics(units: Units) -> dict[str, Statistic]:
    def precision(means: Mapping[str, Array]) -> Array:
        return _ratio(means["hit"][..., 0], means["yes"][..., 0])

    def recall(means: Mapping[str, Array]) -> Array:
        return _ratio(means["hit"][..., 0], means["hit"][..., 0] + means["miss"][..., 0])

    def f1(means: Mapping[str, Array]) -> Array:
        return _ratio(2 * precision(means) * recall(means), precision(means) + recall(means))

    return {
        "accuracy": _mean_of("accuracy"),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_ratio": _mean_of("yes"),
    }


def _circular_sample(_: Benchmark, metrics: Mapping[str, Any]) -> Numbers:
    import pandas as pd
    from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator

    entry = metrics["gpt_eval_score"]
    row = pd.DataFrame([{**entry, "prediction": str(entry["prediction"])}])
    correct = mmbench_evaluator.eval_sub_data(row, {entry["index"]: entry["answer"]}, static_only=True)
    return str(int(entry["index"]) % 1_000_000), "", {"accuracy": float(correct)}


def _circular_unit(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    return {"accuracy": min(row["accuracy"] for row in rows)}  # right in every rotation


def _pairs_sample(_: Benchmark, metrics: Mapping[str, Any]) -> Numbers:
    (entry,) = (metrics[name] for name in ("mme_perception_score", "mme_cognition_score") if name in metrics)
    return str(entry["question_id"]), str(entry["category"]), {"correct": float(entry["score"])}


def _pairs_unit(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    correct = [row["correct"] for row in rows]
    return {"score": 100 * sum(correct) / len(correct) + 100 * float(all(correct))}  # acc + acc_plus


def _pairs_statistics(units: Units) -> dict[str, Statistic]:
    perception = [index for index, name in enumerate(units.strata) if name in MME_PERCEPTION]
    cognition = [index for index, name in enumerate(units.strata) if name not in MME_PERCEPTION]
    found = {"score": _sum_over("score", [*perception, *cognition])}
    if perception:
        found["perception"] = _sum_over("score", perception)
    if cognition:
        found["cognition"] = _sum_over("score", cognition)
    return found


_KINDS = {
    "match": _Score(
        _match_sample,
        _means(),
        shares={name: name for name in ("exact_match", "relaxed_accuracy", "anls")},
    ),
    "strata": _Score(_strata_sample, _strata_statistics),
    "exam": _Score(_exam_sample, _means("accuracy"), shares={"accuracy": "accuracy"}),
    "yes_no": _Score(_yes_no_sample, _yes_no_statistics, shares={"accuracy": "accuracy", "yes_ratio": "yes"}),
    "circular": _Score(_circular_sample, _means("accuracy"), _circular_unit, shares={"accuracy": "accuracy"}),
    "pairs": _Score(_pairs_sample, _pairs_statistics, _pairs_unit),
    "caption": _Score(lambda _, metrics: (None, "", {}), _means("CIDEr", "ROUGE_L")),
}
