"""Whether the paper's claims hold here, in sentences made from the results, whichever way they fall."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.equal_budget import APART, Standing
from dyrate.analysis.measurement import Budget, Measurement, grouped
from dyrate.analysis.paired import Answers, mean_interval
from dyrate.analysis.tables import TABLE1, TABLE2
from dyrate.analysis.words import say
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.results import Difference
from dyrate.typed import Origin

WINS, KEPT, THIRD, TENTH = 8, 99.0, 1 / 3, 0.1
EXTRA = "textvqa"  # measured because the paper's VQA column carries its figures; the ten have VQAv2 there
TEN = tuple(column.benchmark for column in (*TABLE1, *TABLE2) if column.benchmark != EXTRA)
SLACK = 0.005  # a share that is printed as 33% is a third
WHOSE: Mapping[Origin | None, str] = {
    "paper": "DyRate",
    "ours": "DyRate+, which is ours,",
    None: "DyRate of unknown make",  # a producer's that does not say
}


@dataclass(frozen=True)
class Claim:
    """A claim, what was found on each model, and whether it holds in each case in which that can be told."""

    claim: str
    cases: tuple[str, ...]
    holds: tuple[bool, ...]
    note: str = ""
    untold: int = 0
    """Cases in which it cannot be told: they count neither for nor against."""
    whose: Origin | None = "paper"
    """Of which DyRate it is."""

    @property
    def verdict(self) -> str:
        """The finding in a few words."""
        if not self.holds:
            return "cannot be told here"
        held, told = sum(self.holds), len(self.holds)
        text = f"holds here in {held} of {told} cases" if 0 < held < told else "holds here"
        text = text if held else "does not hold here"
        return f"{text}, and cannot be told in {self.untold} more" if self.untold else text


def claims(
    measurements: Sequence[Measurement], standings: Sequence[Standing], answers: Answers
) -> tuple[Claim, ...]:
    """The three claims for the paper's DyRate and again for ours, each over all models that have a row of it;
    none without one.
    """
    mine = [m for m in measurements if m.method == DYRATE and not m.replays]
    mine = [m for m in mine if m.decoding == measurements[0].decoding]
    return tuple(
        claim
        for whose in WHOSE
        if (by_model := grouped((m for m in mine if m.origin == whose), lambda m: m.model))
        for claim in _claims(whose, by_model, [s for s in standings if s.mine.origin == whose], answers)
    )


def _claims(
    whose: Origin | None,
    by_model: Mapping[str, list[Measurement]],
    standings: Sequence[Standing],
    answers: Answers,
) -> Iterator[Claim]:
    places = {model: _fastv_places(model, standings) for model in by_model}
    met = [c for found in places.values() for _, s in found for c in s.comparisons if c.phase == "both"]
    title, name = BENCHMARKS[EXTRA].title, WHOSE[whose]
    facts = {"name": name, "wins": WINS, "ten": TEN, "extra": title, "apart": 100 * APART}
    captions = [benchmark for benchmark in TEN if BENCHMARKS[benchmark].group == "caption"]
    note = say("claim_note", met=met, uneven=[c for c in met if c.uneven], **facts)
    cases = {
        "beats": [case for model, found in places.items() for case in _against_fastv(model, found)],
        "third": [_kept(*entry, answers, TEN, THIRD, _mean_share) for entry in by_model.items()],
        "tenth": [_kept(*entry, answers, captions, TENTH, _pruned_share) for entry in by_model.items()],
    }
    for which, found in cases.items():
        decided = tuple(holds for _, holds in found if holds is not None)
        texts = tuple(text for text, _ in found)
        claim = say(f"claim_{which}", **facts)
        yield Claim(claim, texts, decided, note if which == "beats" else "", len(found) - len(decided), whose)


def default_standings(standings: Sequence[Standing]) -> dict[str, list[Standing]]:
    """Per model the standings of its default DyRates: the first of Tables I and II that is the paper's, and
    the first that is ours.
    """
    defaults: dict[tuple[str, str | None], Measurement] = {}
    for standing in standings:
        if standing.mine.group == "main":
            defaults.setdefault((standing.mine.model, standing.mine.origin), standing.mine)
    return grouped((s for s in standings if s.mine in defaults.values()), lambda s: s.mine.model)


Case = tuple[str, bool | None]
"""What was found, and whether the claim holds there; None where that cannot be told."""


def _against_fastv(model: str, places: Sequence[tuple[Budget, Standing]]) -> list[Case]:
    """The default and the settings of its sweep, each at its own budget, from most tokens to fewest.

    Where some of the ten cannot be compared, and wins on all of these would make up the number, it cannot be
    told.
    """
    cases: list[Case] = []
    for at, s in places:
        wins = s.count("win")
        untold = wins < WINS <= wins + len(TEN) - len(s.comparisons)
        cases.append(
            (say("against_fastv", model=model, at=at, s=s, untold=untold), None if untold else wins >= WINS)
        )
    return cases or [(say("no_fastv", model=model), None)]


def _fastv_places(model: str, standings: Sequence[Standing]) -> list[tuple[Budget, Standing]]:
    compared = [s for s in (_fastv(mine, standings) for mine in _swept(model, standings)) if s]
    places = [(s.mine.budget(*(c.benchmark for c in s.comparisons)), s) for s in compared]
    return sorted(places, key=lambda place: place[0].prefill or 0, reverse=True)


def _swept(model: str, standings: Sequence[Standing]) -> list[Measurement]:
    """The model's default DyRate, and its settings for the comparison at equal budget."""
    first = default_standings(standings).get(model, [])[:1]  # of one origin
    others = [s.mine for s in standings if s.mine.model == model and s.mine.group == "budget"]
    return list(dict.fromkeys([*(s.mine for s in first), *others]))


def _fastv(mine: Measurement, standings: Sequence[Standing]) -> Standing | None:
    """A setting's standing against the FastV curve with the most points, over the paper's ten benchmarks."""
    candidates = [
        standing
        for s in standings
        if s.mine is mine and s.settings[0].method == "fastv" and (standing := s.among(TEN)).comparisons
    ]
    return max(candidates, key=lambda s: (len(s.comparisons), len(s.settings)), default=None)


@dataclass(frozen=True)
class Lean:
    """A setting, the share that a claim limits, what else it spends, and what it keeps."""

    m: Measurement
    share: float
    spent: Budget
    kept: Difference
    benchmarks: int
    """On how many."""
    first: int | None = None
    """The layer from which the share is taken."""


Share = Callable[[Measurement, Sequence[str]], tuple[float, int | None] | None]


def _kept(
    model: str,
    settings: Sequence[Measurement],
    answers: Answers,
    benchmarks: Sequence[str],
    limit: float,
    share: Share,
) -> Case:
    """The best of the settings that spend at most `limit`, over the unpruned model's benchmarks."""
    whole = settings[0].unpruned
    names = [name for name in (whole.result["benchmarks"] if whole else ()) if name in benchmarks]
    known = [one for m in settings if (one := lean_of(m, names, answers, share))]
    lean = [one for one in known if one.share <= limit + SLACK]
    if not known:
        return say("unmeasured", model=model), None
    if not lean:
        return say("no_lean", model=model, one=min(known, key=lambda one: one.share)), False
    best = max(lean, key=lambda one: one.kept["value"])
    return say("lean", model=model, one=best, count=len(lean)), best.kept["value"] >= KEPT


def lean_of(m: Measurement, names: Sequence[str], answers: Answers, share: Share) -> Lean | None:
    """What a setting spends and keeps on some benchmarks; None where either is unknown."""
    found = share(m, names) if names else None
    kept = kept_of_unpruned(m, names, answers) if found else None
    return Lean(m, found[0], m.budget(*names), kept, len(names), found[1]) if found and kept else None


def kept_of_unpruned(m: Measurement, names: Sequence[str], answers: Answers) -> Difference | None:
    """Mean score in percent of the unpruned model's; None where a benchmark or its answers are missing."""
    whole = m.unpruned
    scores = [(answers.resampled(m, n), answers.resampled(whole, n) if whole else None) for n in names]
    pairs = [(a, b) for a, b in scores if a and b and b.value and a.units.names == b.units.names]
    if len(pairs) < len(names) or m.apart:
        return None
    # Over the unpruned score itself: a resample in which that is zero would have no ratio.
    low, high = mean_interval([100 * (1 + (a.draws - b.draws) / b.value) for a, b in pairs])
    return {"value": fmean(100 * a.value / b.value for a, b in pairs), "low": low, "high": high}


def _mean_share(m: Measurement, names: Sequence[str]) -> tuple[float, None] | None:
    """The larger one of the shares at prefill and decode, true means over layers."""
    spent = m.budget(*names)
    shares = [value for value in (spent.prefill, spent.decode) if value is not None]
    return (max(shares), None) if shares else None


def _pruned_share(m: Measurement, names: Sequence[str]) -> tuple[float, int] | None:
    """The share at decode in the prune layer and those after it: the layers before it always see all."""
    first, shares = int(m.result["method"].get("layer", 0)), []
    for name in names:
        tokens = benchmark["visual_tokens"] if (benchmark := m.benchmark(name)) else None
        if tokens and tokens["decode"] and tokens["total"]:
            shares.append(fmean(tokens["decode"][first:]) / tokens["total"])
    return (fmean(shares), first) if shares else None
