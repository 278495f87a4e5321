"""Results of other producers: whether their figures are of our benchmarks, in our units, and theirs alone."""

from collections.abc import Iterator, Mapping, Sequence
from math import isclose

from dyrate.evaluation.benchmarks import BENCHMARKS, Benchmark, Metric
from dyrate.evaluation.decoding import decoding_slug
from dyrate.evaluation.results import BenchmarkResult, Result

_MOST = {"percent": 100.0, "x100": 100.0}
_MOST_OF = {"CIDEr": 1000.0, "score": 2800.0, "perception": 2000.0, "cognition": 800.0}
"""CIDEr is at most 10 before it is multiplied; MME has ten and four categories of at most 200 points."""


def problems(theirs: Sequence[tuple[str, Result]], ours: Sequence[Result]) -> Iterator[str]:
    """Yield `file: key: what is wrong` for each thing that would make a row what it is not."""
    rows = [("the study itself", result) for result in ours]
    for path, result in theirs:
        on = f"on {result['model']!r} under {result['decoding']['name']}"
        for whose, other in rows:
            if (other["model"], _decoding(other)) != (result["model"], _decoding(result)):
                continue
            if _spec(result).items() <= _spec(other).items():
                yield f"{path}: method: {whose} has a row of {result['method']} {on}: give it another name"
            elif _label(result) == _label(other):
                yield f"{path}: label: {whose} has a row {result['label']!r} {on}: give it another one"
        rows.append((path, result))
        for name, measured in result["benchmarks"].items():
            where = f"{path}: benchmarks.{name}"
            if name in BENCHMARKS:
                yield from (f"{where}.{line}" for line in _unlike(measured, BENCHMARKS[name]))
            else:
                yield f"{where}: there is no such benchmark; known: {', '.join(BENCHMARKS)}"


def _spec(result: Result) -> dict[str, str]:
    """The method; there is one unpruned model, however its spec is written."""
    method = result["method"]
    return {key: str(value) for key, value in method.items() if key == "name" or method["name"] != "none"}


def _label(result: Result) -> str:
    return " ".join(result["label"].casefold().split())


def _decoding(result: Result) -> str:
    return decoding_slug(result["decoding"])


def _unlike(measured: BenchmarkResult, benchmark: Benchmark) -> Iterator[str]:
    metrics = {metric.name: metric for metric in benchmark.metrics}
    if measured["primary"] != benchmark.primary.name:
        yield f"primary: is {measured['primary']!r}; this benchmark's is {benchmark.primary.name!r}"
    if measured.get("units", 1) > measured["samples"]:
        yield f"units: {measured.get('units')} of {measured['samples']} samples"
    for name, score in measured["scores"].items():
        if name not in metrics:
            yield f"scores.{name}: there is no such metric; known: {', '.join(metrics)}"
        else:
            yield from (f"scores.{name}.{line}" for line in _unfit(score, metrics[name]))
    for name, difference in (measured["difference"] or {}).items():
        if name not in measured["scores"]:
            yield f"difference.{name}: there is no such score"
        elif not _contained(difference):
            yield f"difference.{name}.value: {difference['value']} is outside of its interval"


def _unfit(score: Mapping[str, object], metric: Metric) -> Iterator[str]:
    most = _MOST_OF.get(metric.name) or _MOST[metric.unit]
    if score["unit"] != metric.unit:
        yield f"unit: is {score['unit']!r}; this metric's is {metric.unit!r}"
    if score["higher_is_better"] != metric.higher_is_better:
        yield f"higher_is_better: is {score['higher_is_better']}; this metric's is {metric.higher_is_better}"
    for key in ("value", "low", "high"):
        value = score[key]
        if isinstance(value, int | float) and not 0 <= value <= most:
            yield f"{key}: {value} is not between 0 and {most:g} {metric.unit}"
    if not _contained(score):
        yield f"value: {score['value']} is outside of its interval, {score['low']} to {score['high']}"


def _contained(score: Mapping[str, object]) -> bool:
    """Whether a value is in its interval, if it has one; rounding does not count."""
    value, low, high = score["value"], score["low"], score["high"]
    if not (
        isinstance(value, int | float) and isinstance(low, int | float) and isinstance(high, int | float)
    ):
        return True
    near = isclose(value, low, abs_tol=1e-6) or isclose(value, high, abs_tol=1e-6)
    return near or low <= value <= high
