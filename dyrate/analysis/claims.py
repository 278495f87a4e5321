"""Whether the paper's claims hold here, in sentences made from the results, whichever way they fall."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.equal_budget import APART, Standing
from dyrate.analysis.measurement import Budget, Measurement
from dyrate.analysis.paired import Answers, mean_interval
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.results import Difference
from dyrate.typed import Origin

WINS, KEPT, THIRD, TENTH = 8, 99.0, 1 / 3, 0.1
EXTRA = "textvqa"  # measured because the paper's VQA column carries its figures; the ten have VQAv2 there
TEN = tuple(name for name in BENCHMARKS if name != EXTRA)
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
    dyrate = [
        m
        for m in measurements
        if m.method == DYRATE and not m.replays and m.decoding == measurements[0].decoding
    ]
    return tuple(
        claim
        for whose, name in WHOSE.items()
        for claim in _claims(name, [m for m in dyrate if m.origin == whose], standings, answers)
    )


def _claims(
    name: str,
    dyrate: Sequence[Measurement],
    standings: Sequence[Standing],
    answers: Answers,
) -> tuple[Claim, ...]:
    by_model = {
        model: [m for m in dyrate if m.model == model] for model in dict.fromkeys(m.model for m in dyrate)
    }
    if not by_model:
        return ()
    mine = [s for s in standings if s.mine in dyrate]
    captions = [benchmark for benchmark in TEN if BENCHMARKS[benchmark].group == "caption"]
    return (
        _claim(
            f"At equal budget {name} beats FastV on at least {WINS} of {len(TEN)} benchmarks",
            [case for model in by_model for case in _against_fastv(model, mine)],
            f"Each at its own budget; without {BENCHMARKS[EXTRA].title}, which the paper's ten do not have. "
            "Wins and losses are those whose intervals exclude zero, as one in twenty would by chance where "
            "nothing differs; Holm's correction is for the comparisons of its line."
            f"{_uneven([s for model in by_model for _, s in _fastv_places(model, mine)])}",
        ),
        _claim(
            f"{name} keeps 99% of the unpruned score at a third of the visual tokens",
            [
                _kept(model, settings, answers, TEN, THIRD, _mean_share)
                for model, settings in by_model.items()
            ],
        ),
        _claim(
            f"On captions {name} does so at a tenth of them at decode",
            [
                _kept(model, settings, answers, captions, TENTH, _pruned_share)
                for model, settings in by_model.items()
            ],
        ),
    )


def default_standings(standings: Sequence[Standing]) -> dict[str, list[Standing]]:
    """Per model the standings of its default DyRates: the first of Tables I and II that is the paper's, and
    the first that is ours.
    """
    defaults: dict[tuple[str, str | None], Measurement] = {}
    for standing in standings:
        if standing.mine.group == "main":
            defaults.setdefault((standing.mine.model, standing.mine.origin), standing.mine)
    grouped: dict[str, list[Standing]] = {}
    for standing in standings:
        if standing.mine in defaults.values():
            grouped.setdefault(standing.mine.model, []).append(standing)
    return grouped


def _claim(claim: str, cases: Sequence[tuple[str, Sequence[bool]]], note: str = "") -> Claim:
    decided = tuple(holds for _, each in cases for holds in each)
    untold = sum(not each for _, each in cases)
    return Claim(claim, tuple(text for text, _ in cases), decided, note, untold)


def _against_fastv(model: str, standings: Sequence[Standing]) -> list[tuple[str, list[bool]]]:
    """The default and the settings of its sweep, each at its own budget, from most tokens to fewest.

    Where some of the ten cannot be compared, and wins on all of these would make up the number, it cannot be
    told.
    """
    places = _fastv_places(model, standings)
    if not places:
        return [(f"on {model} no FastV curve reaches DyRate's budget", [])]
    cases = []
    for at, s in places:
        wins = s.count("win")
        open_ = wins < WINS <= wins + len(TEN) - len(s.comparisons)
        text = (
            f"on {model} at {_share(at.prefill)} of the tokens at prefill and {_share(at.decode)} at decode: "
            f"{_counted(wins, 'win', 'wins')}, {_counted(s.count('tie'), 'tie', 'ties')} and "
            f"{_counted(s.count('loss'), 'loss', 'losses')} ({s.holm('win')} and {s.holm('loss')} after "
            f"Holm's correction) against {s.competitor} on {len(s.comparisons)} benchmarks, mean "
            f"difference {_percent(s.mean, sign=True)} of the unpruned score; {s.mine.label}"
        )
        only = _counted(len(s.comparisons), "comparison", "comparisons")
        text += f": cannot be told at this budget, only {only}" if open_ else ""
        cases.append((text, [] if open_ else [wins >= WINS]))
    return cases


def _fastv_places(model: str, standings: Sequence[Standing]) -> list[tuple[Budget, Standing]]:
    compared = [s for s in (_fastv(mine, standings) for mine in _swept(model, standings)) if s]
    places = [(s.mine.budget(*(c.benchmark for c in s.comparisons)), s) for s in compared]
    return sorted(places, key=lambda place: place[0].prefill or 0, reverse=True)


def _uneven(standings: Sequence[Standing]) -> str:
    """In how many of the comparisons FastV has far more than DyRate in one phase, and how these went."""
    captions = [c for s in standings for c in s.comparisons if c.phase == "both"]
    uneven = [c for c in captions if c.uneven]
    if not uneven:
        return ""
    lost = sum(c.verdict == "loss" for c in uneven)
    won = sum(c.verdict == "win" for c in uneven)
    return (
        f" In {len(uneven)} of {len(captions)} comparisons on captions FastV has over {100 * APART:.0f} "
        f"points more than DyRate in one phase, of them {_counted(won, 'win', 'wins')} and "
        f"{_counted(lost, 'loss', 'losses')} of DyRate."
    )


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


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


Share = Callable[[Measurement, Sequence[str]], tuple[float, str] | None]


def _kept(
    model: str,
    settings: Sequence[Measurement],
    answers: Answers,
    benchmarks: Sequence[str],
    limit: float,
    share: Share,
) -> tuple[str, list[bool]]:
    """The best of the settings that spend at most `limit`, over the unpruned model's benchmarks."""
    whole = settings[0].unpruned
    names = [name for name in (whole.result["benchmarks"] if whole else ()) if name in benchmarks]
    known = [
        (*spent, kept, m)
        for m in settings
        if names and (spent := share(m, names)) and (kept := kept_of_unpruned(m, names, answers))
    ]
    if not known:
        return f"on {model} no setting was measured on all benchmarks that this needs", []
    lean = [entry for entry in known if entry[0] <= limit + SLACK]
    if not lean:
        _, where, kept, m = min(known, key=lambda entry: entry[0])
        return (
            f"on {model} no setting spends so little: the leanest, {m.label}, spends {where} and keeps "
            f"{_percent(kept)}",
            [False],
        )
    _, where, kept, m = max(lean, key=lambda entry: entry[2]["value"])
    return (
        f"on {model} {_best_of(len(lean))} within it, {m.label}, keeps {_percent(kept)} and spends {where}",
        [kept["value"] >= KEPT],
    )


def kept_of_unpruned(m: Measurement, names: Sequence[str], answers: Answers) -> Difference | None:
    """Mean score in percent of the unpruned model's; None where a benchmark or its answers are missing."""
    whole = m.unpruned
    scores = [(answers.resampled(m, n), answers.resampled(whole, n) if whole else None) for n in names]
    pairs = [(a, b) for a, b in scores if a and b and b.value and a.units.names == b.units.names]
    if len(pairs) < len(names):
        return None
    # Over the unpruned score itself: a resample in which that is zero would have no ratio.
    low, high = mean_interval([100 * (1 + (a.draws - b.draws) / b.value) for a, b in pairs])
    return {"value": fmean(100 * a.value / b.value for a, b in pairs), "low": low, "high": high}


def _mean_share(m: Measurement, names: Sequence[str]) -> tuple[float, str] | None:
    """The larger one of the shares at prefill and decode, true means over layers."""
    spent = m.budget(*names)
    shares = [value for value in (spent.prefill, spent.decode) if value is not None]
    text = f"{_share(spent.prefill)} at prefill and {_share(spent.decode)} at decode"
    return (max(shares), text) if shares else None


def _pruned_share(m: Measurement, names: Sequence[str]) -> tuple[float, str] | None:
    """The share at decode in the prune layer and those after it: the layers before it always see all."""
    first, shares = int(m.result["method"].get("layer", 0)), []
    for name in names:
        tokens = benchmark["visual_tokens"] if (benchmark := m.benchmark(name)) else None
        if tokens and tokens["decode"] and tokens["total"]:
            shares.append(fmean(tokens["decode"][first:]) / tokens["total"])
    if not shares:
        return None
    spent = m.budget(*names)
    text = (
        f"{_share(fmean(shares))} at decode from layer {first} on ({_share(spent.decode)} over all "
        f"layers) and {_share(spent.prefill)} at prefill"
    )
    return fmean(shares), text


def _best_of(count: int) -> str:
    return "the only setting" if count == 1 else f"the best of {count} settings"


def _share(value: float | None) -> str:
    return "nothing known" if value is None else f"{100 * value:.0f}%"


def _percent(difference: Difference, sign: bool = False) -> str:
    def number(value: float) -> str:
        return f"{value:{'+' if sign else ''}.1f}".replace("-", "−")

    text = f"{number(difference['value'])}%"
    if difference["low"] is None or difference["high"] is None:
        return text
    return f"{text} ({number(difference['low'])} to {number(difference['high'])})"
