"""The section on all methods at equal budget: order, agreement of the orders, and quality against time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from dyrate.analysis.carried import Carried, summaries
from dyrate.analysis.equal_budget import family_key
from dyrate.analysis.pareto import dyrates
from dyrate.analysis.ranking import Place, Ranking, agreements
from dyrate.analysis.words import say
from dyrate.report.drawing import LINE, MARKERS, MODELS, MUTED, PAPER, Picture, canvas, gridded, named
from dyrate.speed.documents import BenchDocument, Timing

Line = tuple[int, str, tuple[tuple[Ranking, Place | None], ...]]
Point = tuple[int, str, int, float, float]
"""Number and name of a method, number of the model, score kept, time in percent of the unpruned."""
CLOSE = 0.01  # of the bytes held: rates that are replayed make a budget up to rounding


@dataclass(frozen=True)
class AtBudget:
    """The rankings of one budget, models side by side."""

    number: int
    budget: float
    rankings: tuple[Ranking, ...]

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Number, name, and place in each ranking, of every method; the best on average first."""
        found = {ranking.model: {place.name: place for place in ranking.places} for ranking in self.rankings}
        names = {name: None for places in found.values() for name in places}
        kept = {name: fmean(p[name].kept["value"] for p in found.values() if name in p) for name in names}
        order = sorted(names, key=lambda name: -kept[name])
        return tuple(
            (at, name, tuple((r, found[r.model].get(name)) for r in self.rankings))
            for at, name in enumerate(order, start=1)
        )

    @cached_property
    def chart(self) -> Picture:
        """What every method keeps, with intervals, one marker per model."""
        with canvas(6.4, 0.6 + 0.19 * len(self.lines)) as (figure, axes):
            for at, _, places in self.lines:
                for model, (_, place) in enumerate(places):
                    if place is None:
                        continue
                    colour = MODELS[model % len(MODELS)]
                    y = at + (model - (len(places) - 1) / 2) * 0.3
                    low, high = place.kept["low"], place.kept["high"]
                    if low is not None and high is not None:
                        axes.plot([low, high], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
                    axes.plot(
                        place.kept["value"],
                        y,
                        MARKERS[model % len(MARKERS)],
                        color=colour,
                        markerfacecolor=PAPER if place.control else colour,
                        markersize=4,
                    )
            axes.set_yticks(
                [at for at, _, _ in self.lines], [f"{name}  {at}" for at, name, _ in self.lines], fontsize=8
            )
            axes.set_ylim(len(self.lines) + 0.7, 0.3)
            axes.set_title("score kept, % of unpruned, mean over benchmarks")
            axes.grid(axis="both", color=LINE, linewidth=0.4)
            axes.set_axisbelow(True)
            return Picture(
                figure,
                named("ranking", self.number),
                f"Score kept by every method at {100 * self.budget:.0f}% of the visual tokens",
                ("number", "method", "model", "score kept, % of unpruned", "low", "high"),
                [
                    (str(at), name, ranking.model, *(place.kept[key] for key in ("value", "low", "high")))
                    for at, name, places in self.lines
                    for ranking, place in places
                    if place
                ],
            )

    def costs(self, benches: Sequence[BenchDocument]) -> Iterator[tuple[str, Picture]]:
        """Quality against time end to end, a picture for each load that methods at this budget were timed
        under; numbers are those of `lines`.
        """
        for i, bench in enumerate(benches):
            for load in bench.loads:
                timings = bench.under(load)
                if any(timing.given for timing in timings):
                    continue  # measured for the sake of choosing alone
                whole = next((t for t in timings if t.unpruned), None)
                alike = [t for t in timings if whole and t.engine == whole.engine]
                points = list(self._points(alike, whole)) if whole else []
                if not points:
                    continue
                caption = (
                    f"{bench.shape_name}, {bench.device}, {bench.dtype}, batch {load.batch}, prompt "
                    f"{load.prompt}, {load.new_tokens} new tokens"
                    + (f" (commit {bench.commit[:7]})" if bench.commit else "")
                )
                key = named("ranking-time", self.number, i, load.batch, load.prompt, load.new_tokens)
                yield caption, self._against_time(points, caption, key)

    def _points(self, timings: Sequence[Timing], whole: Timing) -> Iterator[Point]:
        """What was timed."""
        held = [t.kv_bytes for t in timings if t.method and t.method.settings.get("budget") == self.budget]
        for at, name, places in self.lines:
            for model, (_, place) in enumerate(places):
                timing = place and next((t for t in timings if self._is(place, name, t, held)), None)
                if place and timing:
                    time = 100 * timing.whole_ms.median / whole.whole_ms.median
                    yield at, name, model, place.kept["value"], time

    def _against_time(self, points: Sequence[Point], caption: str, key: str) -> Picture:
        with canvas(5.6, 3.8) as (figure, axes):
            for number, _, model, kept, time in points:
                colour = MODELS[model % len(MODELS)]
                axes.plot(time, kept, MARKERS[model % len(MARKERS)], color=colour, markersize=3.4)
                axes.annotate(
                    str(number), (time, kept), (3, 2), textcoords="offset points", fontsize=7, color=colour
                )
            axes.axvline(100, color=MUTED, linewidth=0.8)
            axes.set_xlabel("time end to end, % of unpruned")
            axes.set_title("score kept, % of unpruned")
            gridded(axes)
            return Picture(
                figure,
                key,
                f"Score kept against time, {caption}",
                ("number", "method", "model", "score kept, % of unpruned", "time, % of unpruned"),
                [
                    (str(number), name, self.rankings[model].model, kept, time)
                    for number, name, model, kept, time in points
                ],
            )

    def _is(self, place: Place, name: str, timing: Timing, held: Sequence[int]) -> bool:
        """Whether a timed setting is the method at this budget; of DyRate, its rate replayed at every step,
        where its cache has as many bytes as some that were `held` at this budget.
        """
        settings = timing.method.settings if timing.method and timing.reduces else {}
        if dyrates(name):
            as_much = any(abs(timing.kv_bytes - some) <= CLOSE * some for some in held)
            return settings.get("name") == "replay" and as_much
        return settings.get("budget") == self.budget and any(
            family_key(settings) == family_key(m.result["method"]) for m in place.settings
        )


def by_budget(found: Sequence[Ranking]) -> tuple[AtBudget, ...]:
    """The rankings of each budget."""
    budgets = dict.fromkeys(ranking.budget for ranking in found)
    return tuple(
        AtBudget(i, share, tuple(r for r in found if r.budget == share)) for i, share in enumerate(budgets)
    )


def stability(found: Sequence[Ranking]) -> list[str]:
    """How the order changes from one model or budget to another, a sentence for each two rankings."""
    return [say("stability", a=a) for a in agreements(found)]


def carries(found: Sequence[Carried]) -> list[str]:
    """What becomes of one model's verdicts on another, a sentence for each two models and budget."""
    return [say("carried", s=summary) for summary in summaries(found)]
