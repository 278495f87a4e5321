"""Does a testbed model see as CLIP does? What methods that rank or read by its vision tower take for granted.

Its class token looks at what matters, so that keeping what it attends to beats keeping as many tokens by
chance; and captions find their pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dyrate.evaluation import answers
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.intervals import RESAMPLES, Array, bootstrap, estimate, percentile_interval
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.results import Result
from dyrate.evaluation.scoring import Sample, primary_statistic, to_units
from dyrate.testbed.models.retrieval import retrieve

RATES = (0.5, 0.75)
RETRIEVAL_BOUND = 60.0  # percent of 256 that come first among all
Evaluate = Callable[[Mapping[str, Any]], tuple[Evaluation, Result]]


def eyes(checkpoint: Path, evaluate: Evaluate) -> dict[str, Any]:
    """Return what the tower of a checkpoint with a `clip/` folder can do.

    Args:
        checkpoint: of the model.
        evaluate: evaluates one method on the benchmarks, or reads what it has left.
    """
    unpruned = _resampled(*evaluate({"name": "none"}))
    rates = []
    for rate in RATES:
        by_class, by_chance = (
            _resampled(*evaluate(method))
            for method in (
                {"name": "fastervlm", "rate": rate},
                {"name": "random", "layer": 0, "rate": rate},
            )
        )
        gap = _share(by_class, unpruned) - _share(by_chance, unpruned)
        low, high = percentile_interval(gap[1:])
        rates.append(
            {
                "rate": rate,
                "class_attention": float(_share(by_class, unpruned)[0]),
                "random": float(_share(by_chance, unpruned)[0]),
                "difference": float(gap[0]),
                "low": low,
                "high": high,
                "passed": low > 0,
            }
        )
    found = retrieve(checkpoint)
    shares = [100 * n / found.pairs for n in (found.pictures_found, found.captions_found)]
    return {
        "model": checkpoint.name,
        "rates": rates,
        "retrieval": asdict(found),
        "passed": all(row["passed"] for row in rates) and min(shares) >= RETRIEVAL_BOUND,
    }


def _resampled(job: Evaluation, result: Result) -> dict[str, Array]:
    """By benchmark: the primary score, and after it the scores of resamples, the same for every method."""
    found: Mapping[str, Sequence[Sample]] = answers.read(job.files.answers, result)
    values = {}
    for name, samples in found.items():
        units = to_units(BENCHMARKS[name], samples)
        statistic = primary_statistic(BENCHMARKS[name], units)
        draws = bootstrap(units, {"primary": statistic}, job.seed, RESAMPLES)["primary"]
        values[name] = np.array([estimate(units, statistic), *draws])
    return values


def _share(pruned: Mapping[str, Array], unpruned: Mapping[str, Array]) -> Array:
    """The mean over benchmarks of what is left of the unpruned model's score, in percent; of 0 nothing is."""
    whole = {name: scores[0] or np.inf for name, scores in unpruned.items()}
    shares: Array = np.mean([100 * scores / whole[name] for name, scores in pruned.items()], axis=0)
    return shares


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "| model | R | class attention | random | difference [95%] | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {entry['model']} | {row['rate']} | {row['class_attention']:.1f}% | {row['random']:.1f}% | "
        f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] | "
        f"{'pass' if row['passed'] else 'FAIL'} |"
        for entry in table
        for row in entry["rates"]
    ]
    lines.append(
        "\nShare of the unpruned score that is kept, mean over the benchmarks, where the tokens that the "
        "tower's class token attends to most stay (`fastervlm`), and where as many stay by chance "
        "(`random`, layer 0).\n"
    )
    for entry in table:
        found = entry["retrieval"]
        lines.append(
            f"{entry['model']}: {found['pictures_found']} of {found['pairs']} captions of held-out "
            f"scenes find their picture first, {found['captions_found']} pictures their caption (bound: "
            f"{RETRIEVAL_BOUND:.0f}%)."
        )
    return "\n".join(lines) + "\n"
