"""The results in a few words and signs: who loses against the unpruned model, on how many benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

from dyrate.analysis.measurement import NONE, Budget, Measured, Measurement, Verdict, grouped, span
from dyrate.analysis.words import say


@dataclass(frozen=True)
class Line:
    """One measurement's verdicts, in the benchmarks' order (None: not measured, or no unpruned result)."""

    measurement: Measurement
    verdicts: tuple[Verdict, ...]
    budget: Budget
    units: str  # of the compared benchmarks, "25 to 100"

    def count(self, which: Verdict) -> int:
        """How many benchmarks got that verdict."""
        return self.verdicts.count(which)

    @property
    def compared(self) -> int:
        """On how many benchmarks it was compared with the unpruned model."""
        return sum(v is not None for v in self.verdicts)

    @property
    def sentence(self) -> str:
        """The line in words, to stand behind the method's name and a colon."""
        shares = [(s, phase) for phase, s in vars(self.budget).items() if s is not None]
        return say("verdicts", line=self, shares=shares)


def lines(measurements: Sequence[Measurement], benchmarks: Sequence[str]) -> dict[str, tuple[Line, ...]]:
    """Verdicts of every measurement but those that others are compared with, by the model of these."""
    found = []
    for m in (m for m in measurements if m.kind != NONE):
        scores = [m.score(name) for name in benchmarks]
        counts = span(score.units for score in scores if score and _shown(score))
        verdicts = tuple(_shown(score) if score else None for score in scores)
        found.append(Line(m, verdicts, m.budget(*benchmarks), counts))
    by_model = grouped(found, lambda line: line.measurement.reference)
    return {model: tuple(entries) for model, entries in by_model.items()}


def _shown(score: Measured) -> Verdict:
    """What its difference shows; one without an interval, as where all samples score alike, shows nothing."""
    return None if score.difference is None else score.verdict or "open"
