"""Turn a CSV of right answers per benchmark into a result file: `adopt.py STUDY SCORES.csv RESULT.json`."""

import csv
import sys
from math import sqrt
from pathlib import Path

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.results import SCHEMA, VERSION, write


def benchmark(name, right, samples):
    share, z = right / samples, 1.96
    middle = (share + z * z / (2 * samples)) / (1 + z * z / samples)  # Wilson's interval
    half = z / (1 + z * z / samples) * sqrt(share * (1 - share) / samples + (z / (2 * samples)) ** 2)
    low, high = 100 * (middle - half), 100 * (middle + half)
    score = {"value": 100 * share, "low": low, "high": high, "unit": "percent", "higher_is_better": True}
    metric = BENCHMARKS[name].primary.name
    return {
        "task": BENCHMARKS[name].testbed_task,
        "samples": samples,
        "primary": metric,
        "scores": {metric: score},
        "difference": None,  # a paired difference needs the answers of both
        "visual_tokens": None,  # unknown
    }


study, scores, result = sys.argv[1:]
lines = csv.DictReader(Path(scores).read_text().splitlines())
write(
    result,
    {
        "schema": SCHEMA,
        "version": VERSION,
        "study": study,
        "model": "testbed-s",
        "method": {"name": "their-method"},
        "label": "Their method",
        "decoding": {"name": "greedy"},
        "benchmarks": {
            line["benchmark"]: benchmark(line["benchmark"], int(line["right"]), int(line["samples"]))
            for line in lines
        },
        "meta": {"command": "make -C their-repository", "seed": 0, "device": "their GPU", "dtype": "float16"},
    },
)
