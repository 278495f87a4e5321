"""Which verdicts of one model hold on another of the same study, at equal budget.

A verdict is that of a comparison that both models have: of two methods in their rankings at one budget, sure
after Holm among all pairs of a ranking; or of a DyRate setting and a competitor on a benchmark, by its 95%
interval. A tie is no finding that two methods are equal, but that nothing could be told of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from dyrate.analysis.equal_budget import Standing
from dyrate.analysis.measurement import grouped
from dyrate.analysis.paired import mean_interval
from dyrate.analysis.ranking import Place, Ranking
from dyrate.evaluation.results import Difference

Verdict = Literal["win", "tie", "loss"]
OVER_ALL = "mean"
"""The benchmark of a ranking, which is over the mean of several."""


@dataclass(frozen=True)
class Carried:
    """One comparison on two models: its verdicts are the first method's, against the second one's."""

    models: tuple[str, str]
    budget: float | None
    """Share of the visual tokens; None where it is what the first method spends on each model."""
    methods: tuple[str, str]
    benchmark: str
    verdicts: tuple[Verdict, Verdict]
    differences: tuple[Difference, Difference]
    unit: str

    @property
    def outcome(self) -> str:
        """What becomes of the first model's verdict on the second."""
        first, second = self.verdicts
        if first == second:
            return "open in both" if first == "tie" else "holds"
        if "tie" in self.verdicts:
            return "new" if first == "tie" else "open"
        return "reversed"


@dataclass(frozen=True)
class Summary:
    """How many verdicts become what, of one kind and pair of models."""

    models: tuple[str, str]
    budget: float | None
    outcomes: Counter[str]

    @property
    def told(self) -> int:
        """Verdicts of the first model that are no ties."""
        return sum(self.outcomes[name] for name in ("holds", "open", "reversed"))


def carried(rankings: Sequence[Ranking], standings: Sequence[Standing]) -> tuple[Carried, ...]:
    """Every comparison that two models have; the first model is the one that the study names first."""
    return (*_of_rankings(rankings), *_of_standings(standings))


def summaries(found: Sequence[Carried]) -> tuple[Summary, ...]:
    """By models and budget, in the order of `found`."""
    alike = grouped(found, lambda one: (one.models, one.budget))
    return tuple(Summary(*key, Counter(one.outcome for one in group)) for key, group in alike.items())


def _of_rankings(rankings: Sequence[Ranking]) -> Iterator[Carried]:
    for first, second in combinations(rankings, 2):
        if first.budget != second.budget or first.model == second.model:
            continue
        there = {place.name: place for place in second.places}
        shared = [place for place in first.places if place.name in there]
        for a, b in combinations(shared, 2):
            yield Carried(
                (first.model, second.model),
                first.budget,
                (a.name, b.name),
                OVER_ALL,
                (_verdict(first, a, b), _verdict(second, a, b)),
                (_difference(a, b), _difference(there[a.name], there[b.name])),
                "% of unpruned",
            )


def _verdict(ranking: Ranking, a: Place, b: Place) -> Verdict:
    if (a.name, b.name) in ranking.sure:
        return "win"
    return "loss" if (b.name, a.name) in ranking.sure else "tie"


def _difference(a: Place, b: Place) -> Difference:
    low, high = mean_interval([a.draws - b.draws])
    return {"value": a.kept["value"] - b.kept["value"], "low": low, "high": high}


def _of_standings(standings: Sequence[Standing]) -> Iterator[Carried]:
    for first, second in combinations(standings, 2):
        models = first.mine.model, second.mine.model
        methods = first.mine.label, first.competitor
        if models[0] == models[1] or methods != (second.mine.label, second.competitor):
            continue
        for here in first.comparisons:
            there = second.on(here.benchmark)
            if there is not None and there.phase == here.phase:
                verdicts, differences = (here.verdict, there.verdict), (here.difference, there.difference)
                yield Carried(models, None, methods, here.benchmark, verdicts, differences, here.unit)
