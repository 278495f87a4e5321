"""All methods at one budget of visual tokens at prefill: who keeps more of the unpruned model's score.

At a budget b a method is what `equal_budget` makes of its settings: on each benchmark the mixture of the two
whose shares of visual tokens, true means over layers, lie around b. So all methods spend exactly b. Where the
leanest setting of a method spends up to `NEAR` more, it stands for itself. What a method keeps is the mean
over the paper's ten benchmarks, or those of them that the group `methods` is asked, of its score in percent
of the unpruned model's.

Two methods differ where the difference of what they keep is sure after Holm (1979) among all pairs of their
ranking; its standard deviation is that over paired resamples, and its p-value that of a normal distribution,
since a few thousand resamples do not reach into the tails that so many pairs ask for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from statistics import NormalDist, fmean

import numpy as np

from dyrate.analysis.claims import TEN
from dyrate.analysis.equal_budget import BLIND, RANKED, Point, mix, points
from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.paired import Answers, holm, mean_interval
from dyrate.analysis.pareto import settings
from dyrate.evaluation.intervals import Array
from dyrate.evaluation.results import Difference

NEAR = 0.02
GROUPS = ("main", "budget", RANKED)


@dataclass(frozen=True, eq=False)
class Place:
    """A method in a ranking."""

    name: str
    settings: tuple[Measurement, ...]  # of which it is made, those that spend less first
    spent: float
    """Mean share of visual tokens per layer at prefill, over the benchmarks."""
    kept: Difference
    """In percent of the unpruned model's score, mean over the benchmarks."""
    control: bool
    draws: Array = field(repr=False)

    @property
    def mixed(self) -> bool:
        """Whether it stands between settings, or between one and the unpruned model."""
        return len(self.settings) > 1


@dataclass(frozen=True, eq=False)
class Ranking:
    """The methods that can be had at a budget on all benchmarks, best first."""

    model: str
    budget: float
    benchmarks: tuple[str, ...]
    places: tuple[Place, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why the others are not in it."""

    @cached_property
    def sure(self) -> frozenset[tuple[str, str]]:
        """(better, worse) of every pair that differs, corrected for their number."""
        pairs = sorted((_p_value(a, b), a.name, b.name) for a, b in combinations(self.places, 2))
        sure = holm([p for p, _, _ in pairs])
        return frozenset((better, worse) for _, better, worse in pairs[:sure])

    def ranks(self, place: Place) -> tuple[int, int]:
        """The best and the worst rank that nothing speaks against."""
        better = sum(worse == place.name for _, worse in self.sure)
        worse = sum(better == place.name for better, _ in self.sure)
        return 1 + better, len(self.places) - worse

    @property
    def ties(self) -> int:
        """How many pairs do not differ."""
        return len(self.places) * (len(self.places) - 1) // 2 - len(self.sure)


@dataclass(frozen=True)
class Agreement:
    """How far two rankings order the methods alike that they share."""

    first: Ranking
    second: Ranking
    methods: int
    tau: float
    """Kendall's: 1 for the same order, 0 for none in common, -1 for the reverse."""
    reversed: int
    """Pairs of methods that differ in both, and the other way round."""


def rankings(
    measurements: Sequence[Measurement], budgets: Sequence[float], answers: Answers
) -> tuple[Ranking, ...]:
    """One for each model and budget, under the first measurement's decoding; none with fewer than two
    methods.
    """
    shown = [m for m in measurements if m.group in GROUPS and m.decoding == measurements[0].decoding]
    found = []
    for model in dict.fromkeys(m.model for m in shown if m.against is None):
        mine = [m for m in shown if m.reference == model]
        whole = next((m for m in mine if m.method == NONE and m.model == model), None)
        # The group may be asked fewer benchmarks than the tables have: then these are what is ranked by.
        asked = [{*m.job.method.benchmarks} for m in mine if m.group == RANKED and m.job]
        whole_has = whole.result["benchmarks"] if whole else ()
        names = tuple(name for name in whole_has if name in TEN and all(name in one for one in asked))
        blind = (m for m in mine if m.method == BLIND)
        curves = settings(model, shown, GROUPS)
        curves |= {m.label if m.model == model else f"{m.label} on {m.model}": (m,) for m in blind}
        for share in budgets:
            tried = {name: _place(name, curve, share, names, answers) for name, curve in curves.items()}
            places = [place for place in tried.values() if isinstance(place, Place)]
            if len(places) > 1:
                places.sort(key=lambda place: -place.kept["value"])
                left_out = {name: why for name, why in tried.items() if isinstance(why, str)}
                found.append(Ranking(model, share, names, tuple(places), left_out))
    return tuple(found)


def agreements(found: Sequence[Ranking]) -> tuple[Agreement, ...]:
    """Of every two rankings that share two methods."""
    return tuple(a for a in (_agreement(*both) for both in combinations(found, 2)) if a.methods > 1)


def _agreement(first: Ranking, second: Ranking) -> Agreement:
    places = {place.name: at for at, place in enumerate(second.places)}
    shared = [place.name for place in first.places if place.name in places]
    pairs = list(combinations(shared, 2))
    alike = sum(places[a] < places[b] for a, b in pairs)
    reverse = sum((worse, better) in second.sure for better, worse in first.sure)
    tau = (2 * alike - len(pairs)) / len(pairs) if pairs else 0.0
    return Agreement(first, second, len(shared), tau, reverse)


def _place(
    name: str, settings: Sequence[Measurement], share: float, benchmarks: Sequence[str], answers: Answers
) -> Place | str:
    """Return the place, or why there is none."""
    draws, kept, spent, used = [], [], [], dict[Measurement, float]()
    for benchmark in benchmarks:
        whole = settings[0].unpruned
        end = answers.resampled(whole, benchmark) if whole else None
        if whole is None or end is None or not end.value:
            return f"the unpruned model has no answers or no score on {benchmark}"
        curve = points(settings, benchmark, "prefill", answers)
        if not curve:
            apart = (m.apart for m in settings if m.apart)
            return next(apart, f"no answers or no counts of tokens on {benchmark}")
        if curve[0].spent > share + NEAR:
            return f"its leanest setting spends {100 * curve[0].spent:.0f}% on {benchmark}"
        parts = mix([*curve, Point(whole, 1.0, end)], share) or [(1.0, curve[0])]
        if any(part.score.units.names != end.units.names for _, part in parts):
            return f"its answers on {benchmark} are to other questions than the unpruned model's"
        score = np.sum([weight * part.score.draws for weight, part in parts], axis=0)
        value = sum(weight * part.score.value for weight, part in parts)
        # Over the unpruned score itself: a resample in which that is zero would have no ratio.
        draws.append(100 * (1 + (score - end.draws) / end.value))
        kept.append(100 * value / end.value)
        spent.append(sum(weight * part.spent for weight, part in parts))
        for _, part in parts:
            used.setdefault(part.measurement, part.spent)
    if not draws:
        return "no benchmark of the paper's ten"
    low, high = mean_interval(draws)
    return Place(
        name,
        tuple(sorted(used, key=lambda m: used[m])),
        fmean(spent),
        {"value": fmean(kept), "low": low, "high": high},
        settings[0].control,
        np.mean(np.stack(draws), axis=0),
    )


def _p_value(a: Place, b: Place) -> float:
    """Two-sided, of both keeping the same."""
    difference = a.kept["value"] - b.kept["value"]
    deviation = float(np.std(a.draws - b.draws))
    if not deviation:
        return float(not difference)
    return 2 * NormalDist().cdf(-abs(difference) / deviation)
