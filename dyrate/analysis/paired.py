"""Any two measurements compared on the same resampled units, from their answers files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dyrate.analysis.measurement import NONE, Measurement
from dyrate.evaluation import answers
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.intervals import (
    LEVEL,
    RESAMPLES,
    Array,
    Units,
    bootstrap,
    difference_interval,
    estimate,
    percentile_interval,
)
from dyrate.evaluation.results import Difference
from dyrate.evaluation.scoring import Sample, primary_statistic, to_units


@dataclass(frozen=True, eq=False)
class Resampled:
    """The primary score of a benchmark: on its units, and on `RESAMPLES` resamples of them."""

    units: Units
    value: float
    draws: Array

    def minus(self, parts: Sequence[tuple[float, "Resampled"]]) -> "Gap":
        """This score minus the weighted sum of others on the same units.

        With weights w and 1 - w, the others are two methods of which each unit gets one, the first with
        probability w: primary scores are linear in the units, so the sum is the mixture's expected score in
        every resample.
        """
        value = self.value - sum(weight * part.value for weight, part in parts)
        draws = self.draws - sum(weight * part.draws for weight, part in parts)
        low, high = difference_interval(self.units, draws)
        return Gap({"value": value, "low": low, "high": high}, draws)


@dataclass(frozen=True, eq=False)
class Gap:
    """A paired difference with its interval, and its value in each resample."""

    difference: Difference
    draws: Array

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference: twice the share of resamples on zero's other side."""
        other = min(int((self.draws <= 0).sum()), int((self.draws >= 0).sum()))
        return min(1.0, 2 * (other + 1) / (len(self.draws) + 1))


class Answers:
    """The answers of a study's measurements, read and resampled once each, all in the same resamples."""

    def __init__(self, seed: int, resamples: int = RESAMPLES) -> None:
        """`seed` and `resamples` are those of the results, so that intervals agree with theirs."""
        self._seed, self._resamples = seed, resamples
        self._samples: dict[Measurement, Mapping[str, Sequence[Sample]]] = {}
        self._resampled: dict[tuple[Measurement, str], Resampled | None] = {}

    def resampled(self, m: Measurement, benchmark: str) -> Resampled | None:
        """A measurement's score on a benchmark; None where its producer left no answers."""
        if (m, benchmark) not in self._resampled:
            self._resampled[m, benchmark] = self._resample(m, benchmark)
        return self._resampled[m, benchmark]

    def difference(self, m: Measurement, other: Measurement, benchmark: str) -> Difference | None:
        """The paired difference of two measurements; None where one lacks answers, or they are to others, or
        the two ran in different dtypes.
        """
        mine, theirs = self.resampled(m, benchmark), self.resampled(other, benchmark)
        if mine is None or theirs is None or mine.units.names != theirs.units.names:
            return None
        if m.result["meta"]["dtype"] != other.result["meta"]["dtype"]:
            return None
        return mine.minus([(1.0, theirs)]).difference

    def compare(self, measurements: Sequence[Measurement]) -> None:
        """Take the differences to the unpruned model that the study's results do not carry, into them.

        Where two cannot be compared, `uncompared` of the measurement says why.
        """
        for m in measurements:
            whole = m.unpruned
            if m.job is None or m.kind == NONE or whole is None:
                continue
            for name, found in m.result["benchmarks"].items():
                if found["difference"] is not None or whole.benchmark(name) is None:
                    continue
                why = self.apart(m, whole, name, "the unpruned model")
                difference = None if why else self.difference(m, whole, name)
                if difference is None:
                    m.uncompared[name] = why or "the two did not answer the same samples"
                else:
                    found["difference"] = {found["primary"]: difference}

    def apart(self, m: Measurement, other: Measurement, benchmark: str, whose: str = "") -> str | None:
        """Why the answers of two measurements say nothing of each other; None where they can be paired.

        `whose` the other's are, where the two must be of one model.
        """
        for one in (m, other):
            if not one.files.answers.exists():
                return f"there is no {one.files.answers}"
        mine, theirs = (one.result["meta"].get("hashes", {}) for one in (m, other))
        pairs = [("data", mine.get("data", {}).get(benchmark), theirs.get("data", {}).get(benchmark))]
        if whose and m.against is None:
            pairs.append(("weights", mine.get("weights"), theirs.get("weights")))
        if whose and m.apart:
            return m.apart
        for what, ours, others in pairs:
            if ours != others:
                return f"its {what} have the hash {ours}, {whose or 'the other'}'s {others}"
        prompts = [
            {one.doc_id: one.prompt for one in self._answers(x).get(benchmark, ())} for x in (m, other)
        ]
        if prompts[0].keys() != prompts[1].keys():
            return "the two did not answer the same samples"
        return None if prompts[0] == prompts[1] else "the two were not asked the same"

    def _answers(self, m: Measurement) -> Mapping[str, Sequence[Sample]]:
        if m not in self._samples:
            path = m.files.answers
            self._samples[m] = answers.read(path, m.result) if path.exists() else {}
        return self._samples[m]

    def _resample(self, m: Measurement, benchmark: str) -> Resampled | None:
        samples = self._answers(m).get(benchmark)
        if not samples or benchmark not in BENCHMARKS:
            return None
        units = to_units(BENCHMARKS[benchmark], samples)
        statistic = primary_statistic(BENCHMARKS[benchmark], units)
        draws = bootstrap(units, {"score": statistic}, self._seed, self._resamples)["score"]
        return Resampled(units, estimate(units, statistic), draws)


def mean_interval(draws: Sequence[Array]) -> tuple[float, float]:
    """The 95% interval of a mean over benchmarks, whose items have nothing to do with each other."""
    return percentile_interval(np.mean(np.stack(draws), axis=0))


def holm(p_values: Sequence[float]) -> int:
    """How many of some comparisons are sure after Holm (1979), the surest first: one that fails ends it."""
    ends = (place for place, p in enumerate(p_values) if p * (len(p_values) - place) > 1 - LEVEL)
    return next(ends, len(p_values))
