"""Scores and differences in percent of the unpruned model's score."""

from collections.abc import Sequence
from statistics import fmean

from dyrate.analysis.measurements import NONE, Measurement, primary, unpruned, verdict


def relative_difference(
    m: Measurement, benchmark: str, among: Sequence[Measurement]
) -> tuple[float, float, float, bool] | None:
    """A paired difference, its interval, and whether that excludes zero; None where one is missing."""
    mine, reference = m.benchmark(benchmark), unpruned(m, among)
    whole = reference.benchmark(benchmark) if reference else None
    if m.method == NONE or mine is None or whole is None:
        return None
    score, difference = primary(mine)
    scale = primary(whole)[0]["value"] / 100
    if not scale or not difference or difference["low"] is None or difference["high"] is None:
        return None
    significant = verdict(score, difference) in ("better", "worse")
    return difference["value"] / scale, difference["low"] / scale, difference["high"] / scale, significant


def score_kept(m: Measurement, benchmarks: Sequence[str], among: Sequence[Measurement]) -> float | None:
    """The mean over the benchmarks that both have; None where there is none."""
    reference = unpruned(m, among)
    shares = []
    for name in benchmarks:
        mine, whole = m.benchmark(name), reference.benchmark(name) if reference else None
        if mine and whole and primary(whole)[0]["value"]:
            shares.append(100 * primary(mine)[0]["value"] / primary(whole)[0]["value"])
    return fmean(shares) if shares else None
