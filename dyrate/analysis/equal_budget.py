"""DyRate against every competitor at the same budget of visual tokens, sample by sample.

A competitor has been evaluated at a few budgets. At the budgets between, it plays a mixture: each item gets
one of the two neighbouring settings, drawn so that the expected budget is the asked one. The mixture's
expected score is the weighted sum of the two settings' scores on every item, so a paired interval of the
difference needs no model of what lies between. Every curve ends at the unpruned model, which is every method
with nothing removed. Below its leanest setting a competitor is not compared.

The budget at which they meet, by kind of answer:
questions  visual tokens at prefill: one-token answers have nothing to decode;
captions   (and what is answered step by step) the larger one of DyRate's shares at prefill and decode; a
           competitor's setting counts by its smaller one, so that in both phases it has at least as many
           tokens as DyRate;
captions, and questions whose answers are spelt out, where DyRate keeps all at prefill: visual tokens at
decode, against others that keep all at prefill.

So a competitor on captions never has less than DyRate in either phase, and may have far more in one: just
below a whole prefill it is all but the unpruned model, whatever DyRate spends at decode. At a whole prefill
the rule changes, and the verdicts may with it. `Comparison.spare` says how much more that is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.measurement import NONE, Budget, Measurement, grouped
from dyrate.analysis.paired import Answers, Gap, Resampled, holm, mean_interval
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.results import Difference

RANKED, ABLATION = "methods", "predictor"  # groups: of the comparison of all methods, and of DyRate's parts
KNOBS = ("budget", "rate", "least", "most", "temperature")  # what sets how many tokens stay
BLIND = "text_only"  # no competitor: it has nothing to choose
# Questions whose answers have several tokens: what is written in the image.
SPELT = ("textvqa", "chartqa", "docvqa", "infovqa")
ALL = 1 - 1e-9  # a share from here on is the whole
APART = 0.1  # shares at prefill and decode that differ by more are not one budget
Phase = Literal["prefill", "both", "decode"]


@dataclass(frozen=True, eq=False)
class Point:
    """One setting on one benchmark: what it spends, in the phase that counts, and what it scores."""

    measurement: Measurement
    spent: float
    score: Resampled


@dataclass(frozen=True, eq=False)
class Comparison:
    """A DyRate setting and a competitor's mixture on one benchmark, at one budget."""

    mine: Measurement
    competitor: str
    benchmark: str
    phase: Phase
    budget: float
    own: Budget
    parts: tuple[tuple[float, Measurement], ...]  # of the mixture: probability and setting
    score: float
    competitor_score: float
    gap: Gap = field(repr=False)
    whole: Resampled = field(repr=False)  # the unpruned model's

    @property
    def difference(self) -> Difference:
        """DyRate's score minus the competitor's, paired."""
        return self.gap.difference

    @property
    def unit(self) -> str:
        """The unit of the scores."""
        score = self.mine.score(self.benchmark)
        return score.unit if score else ""

    @property
    def spare(self) -> float:
        """By how much the budget exceeds DyRate's smaller share, in the phase in which DyRate prunes more."""
        if self.phase != "both" or self.own.prefill is None or self.own.decode is None:
            return 0.0
        return abs(self.own.prefill - self.own.decode)

    @property
    def uneven(self) -> bool:
        """Whether that is so much that the competitor's budget is hardly DyRate's."""
        return self.spare > APART

    @property
    def verdict(self) -> Literal["win", "tie", "loss"]:
        """Which way the interval excludes zero; a tie if it does not, or if there is none."""
        low, high = self.difference["low"], self.difference["high"]
        if low is None or high is None or low <= 0 <= high:
            return "tie"
        return "win" if low > 0 else "loss"


@dataclass(frozen=True, eq=False)
class Standing:
    """A DyRate setting against one competitor, over the benchmarks on which both can be had at one budget."""

    mine: Measurement
    competitor: str
    settings: tuple[Measurement, ...]  # the competitor's
    comparisons: tuple[Comparison, ...]

    def on(self, benchmark: str) -> Comparison | None:
        """The comparison on a benchmark, if there is one."""
        return next((c for c in self.comparisons if c.benchmark == benchmark), None)

    def among(self, benchmarks: Sequence[str]) -> "Standing":
        """The same on these benchmarks only."""
        return replace(self, comparisons=tuple(c for c in self.comparisons if c.benchmark in benchmarks))

    def count(self, verdict: Literal["win", "tie", "loss"]) -> int:
        """On how many benchmarks."""
        return sum(comparison.verdict == verdict for comparison in self.comparisons)

    def holm(self, verdict: Literal["win", "loss"]) -> int:
        """On how many benchmarks, corrected for their number after Holm (1979)."""
        known = [c for c in self.comparisons if c.difference["low"] is not None]
        left = sorted(known, key=lambda c: c.gap.p_value)
        return sum(c.verdict == verdict for c in left[: holm([c.gap.p_value for c in left])])

    @property
    def mean(self) -> Difference:
        """The mean difference over the benchmarks, in percent of the unpruned model's score."""
        scaled = [(c, 100 / c.whole.value) for c in self.comparisons if c.whole.value]
        if not scaled:
            return {"value": 0.0, "low": None, "high": None}
        low, high = mean_interval([scale * c.gap.draws for c, scale in scaled])
        return {
            "value": sum(scale * c.difference["value"] for c, scale in scaled) / len(scaled),
            "low": low,
            "high": high,
        }


def standings(measurements: Sequence[Measurement], answers: Answers) -> tuple[Standing, ...]:
    """Every DyRate setting against every competitor with which it can be compared somewhere.

    Under the decoding strategy of the study's first measurement, which the competitors have.
    """
    comparable = [
        m
        for m in measurements
        if m.decoding == measurements[0].decoding and m.group != RANKED and m.against is None
    ]
    rows = []
    for mine in (m for m in comparable if m.method == DYRATE and not m.replays):
        rivals = families([m for m in comparable if m.model == mine.model])
        for name, settings in rivals.items():
            comparisons = tuple(
                comparison
                for benchmark in mine.result["benchmarks"]
                if benchmark in BENCHMARKS
                and (comparison := compare(mine, name, settings, benchmark, answers))
            )
            if comparisons:
                rows.append(Standing(mine, name, settings, comparisons))
    return tuple(rows)


def families(measurements: Sequence[Measurement]) -> dict[str, tuple[Measurement, ...]]:
    """Competitors by name: settings that differ in what sets their budget alone, or, where nothing but a
    layer does, in that. A replayed schedule competes with the predictor that it was taken from.
    """
    competing = [
        m
        for m in measurements
        if m.method not in (NONE, BLIND) and (m.method != DYRATE or (m.replays and m.group != ABLATION))
    ]
    alike = grouped(competing, lambda m: f"{family_key(m.result['method'])} {m.origin}")
    named: dict[str, tuple[Measurement, ...]] = {}
    for settings in alike.values():
        label = _common_label([m.label for m in settings])
        named[settings[0].label if label in named else label] = tuple(settings)
    return named


def compare(
    mine: Measurement, competitor: str, settings: Sequence[Measurement], benchmark: str, answers: Answers
) -> Comparison | None:
    """The comparison on one benchmark; None where the competitor's curve does not reach DyRate's budget."""
    own, score = mine.budget(benchmark), answers.resampled(mine, benchmark)
    phase = phase_of(own, benchmark)
    whole = mine.unpruned
    end = answers.resampled(whole, benchmark) if whole else None
    if whole is None or end is None or score is None or phase is None or mine.apart:
        return None
    asked = spent(own, phase, mine=True)
    curve = points(settings, benchmark, phase, answers)
    mixture = mix([*curve, Point(whole, 1.0, end)], asked) if curve and asked is not None else None
    if mixture is None or any(part.score.units.names != score.units.names for _, part in mixture):
        return None
    gap = score.minus([(weight, part.score) for weight, part in mixture])
    return Comparison(
        mine,
        competitor,
        benchmark,
        phase,
        sum(weight * part.spent for weight, part in mixture),
        own,
        tuple((weight, part.measurement) for weight, part in mixture),
        score.value,
        score.value - gap.difference["value"],
        gap,
        end,
    )


def phase_of(own: Budget, benchmark: str) -> Phase | None:
    """The rule of this module's text, for what DyRate spends on a benchmark; None where nothing is saved."""
    if own.prefill is None:
        return None
    spelt = BENCHMARKS[benchmark].long
    if own.prefill >= ALL:
        long = spelt or benchmark in SPELT
        return "decode" if long and own.decode is not None and own.decode < ALL else None
    return "both" if spelt and own.decode is not None else "prefill"


def spent(shares: Budget, phase: Phase, mine: bool = False) -> float | None:
    """What counts as a setting's budget: of both shares DyRate's larger one, and the others' smaller one.

    None for a setting that has no place in the phase: only what keeps all at prefill is compared at decode.
    """
    if phase == "decode":
        return shares.decode if shares.prefill is not None and shares.prefill >= ALL else None
    if phase == "prefill" or shares.prefill is None or shares.decode is None:
        return shares.prefill
    return (max if mine else min)(shares.prefill, shares.decode)


def points(settings: Sequence[Measurement], benchmark: str, phase: Phase, answers: Answers) -> list[Point]:
    """What the settings spend and score on a benchmark, by rising budget, as far as both are known; without
    those that are no settings of the unpruned model as it ran.
    """
    curve = []
    for m in (m for m in settings if not m.apart):
        at = spent(m.budget(benchmark), phase)
        score = answers.resampled(m, benchmark)
        if at is not None and score is not None:
            curve.append(Point(m, at, score))
    return sorted(curve, key=lambda point: point.spent)


def mix(curve: Sequence[Point], asked: float) -> list[tuple[float, Point]] | None:
    """The neighbours of a budget and the probabilities with which they spend it on average."""
    below = [point for point in curve if point.spent <= asked + 1e-9]
    above = [point for point in curve if point.spent >= asked - 1e-9]
    if not below or not above:
        return None
    low, high = max(below, key=lambda point: point.spent), min(above, key=lambda point: point.spent)
    if high.spent - low.spent < 1e-9:
        return [(1.0, low)]
    weight = (asked - low.spent) / (high.spent - low.spent)
    return [(weight, high), (1 - weight, low)]


def family_key(spec: Mapping[str, Any]) -> str:
    """What the settings of a family have in common: all but what sets the budget."""
    knobs = [knob for knob in KNOBS if knob in spec] or ["layer"]
    replayed = ["predictor"] if spec["name"] == DYRATE else []
    return repr(sorted((key, repr(value)) for key, value in spec.items() if key not in (*knobs, *replayed)))


def _common_label(labels: Sequence[str]) -> str:
    """What labels such as "FastV (K=2, R=0.5)" have in common: "FastV (K=2)"."""
    title, _, _ = labels[0].partition(" (")
    settings = [label.partition(" (")[2].removesuffix(")").split(", ") for label in labels]
    common = [part for part in settings[0] if part and all(part in other for other in settings)]
    return f"{title} ({', '.join(common)})" if common else title
