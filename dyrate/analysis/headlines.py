"""A study in a few plain sentences that a reader can repeat, and what of it was not run."""

from collections import Counter
from collections.abc import Iterator, Sequence

from dyrate.analysis.cells import Table
from dyrate.analysis.claims import SLACK, WHOSE, Claim, default_standings, kept_of_unpruned, lean_of
from dyrate.analysis.equal_budget import BLIND, Standing
from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.missing import Missing
from dyrate.analysis.paired import Answers
from dyrate.analysis.ranking import Place, Ranking
from dyrate.analysis.summary import Line, lines
from dyrate.analysis.tables import TABLE1, TABLE2
from dyrate.analysis.words import say
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.study import Study

MOST = 5
LIMITS = (0.5, 2 / 3, 0.85)  # budgets at prefill that are tried where the study ranks at none
CHANCE = "random"


def headlines(
    study: Study,
    measurements: Sequence[Measurement],
    standings: Sequence[Standing],
    rankings: Sequence[Ranking],
    claims: Sequence[Claim],
    answers: Answers,
) -> tuple[str, ...]:
    """At most five findings, the one on who keeps most first; each says on which model and budget."""
    main = [m for m in measurements if m.group == "main"]
    found = [
        *(_ranked(rankings) if rankings else _best(main, answers)),
        *_dyrate(standings),
        *_against_chance(rankings),
        *_claimed(claims),
        *_unharmed(lines(main, study.benchmarks)),
        *_without_image(main, answers),
    ]
    return tuple(found[:MOST])


def not_run(
    study: Study, measurements: Sequence[Measurement], tables: Sequence[Table], missing: Sequence[Missing]
) -> tuple[str, ...]:
    """What a reader might look for here and will not find, in sentences without their full stop."""
    paper = [column.benchmark for column in (*TABLE1, *TABLE2)]
    left = [BENCHMARKS[name].title for name in paper if name not in study.benchmarks]
    parts = [say("missing", missing=missing)] if missing else []
    parts += [say("left_out", left=left)] if left else []
    for table in tables:
        rows = [row.printed for row in table.rows if row.printed]
        empty = [row.printed for row in table.rows if row.printed and not row.measurement]
        if table.measured and empty:
            counted = Counter(row.title for row in rows)  # a title that comes again is another model's
            names = [row.title if counted[row.title] == 1 else f"{row.title} on {row.group}" for row in empty]
            parts.append(say("not_measured", table=table, rows=rows, names=names))
    for sentence, so in (
        ("no_model", not any(model.published for model in study.models)),
        ("no_trace", not study.typed.trace),
        ("no_unpruned", not any(m.method == NONE for m in measurements)),
    ):
        parts += [say(sentence)] if so else []
    return tuple(parts)


def _ranked(rankings: Sequence[Ranking]) -> Iterator[str]:
    """The two best at each budget, models in one sentence."""
    for share in dict.fromkeys(ranking.budget for ranking in rankings):
        found = [r for r in rankings if r.budget == share and _real(r)]
        parts = [say("first_two", ranking=r, places=_real(r), sure=r.sure) for r in found]
        if parts:
            yield say("ranked", share=share, benchmarks=found[-1].benchmarks, parts=parts)


def _real(ranking: Ranking) -> list[Place]:
    return [place for place in ranking.places if not place.control]


def _best(main: Sequence[Measurement], answers: Answers) -> Iterator[str]:
    """The same from the settings as they were run, within the smallest budget that two of them keep to."""
    for model in dict.fromkeys(m.reference for m in main):
        settings = [m for m in main if m.reference == model and m.kind != NONE and not m.control]
        known = [one for m in settings if (one := lean_of(m, _asked(m), answers, _at_prefill))]
        for limit in LIMITS:
            within = [one for one in known if one.share <= limit + SLACK]
            if len(within) > 1:
                first, second, *_ = sorted(within, key=lambda one: -one.kept["value"])
                yield say("best", limit=limit, model=model, first=first, second=second)
                break


def _at_prefill(m: Measurement, names: Sequence[str]) -> tuple[float, None] | None:
    share = m.budget(*names).prefill
    return None if share is None else (share, None)


def _asked(m: Measurement) -> list[str]:
    """The benchmarks that the unpruned model has."""
    return [name for name in (m.unpruned.result["benchmarks"] if m.unpruned else ()) if name in BENCHMARKS]


def _dyrate(standings: Sequence[Standing]) -> Iterator[str]:
    """Wins and losses of each model's default DyRate against FastV, models added up, the paper's and ours."""
    chosen = [s for found in default_standings(standings).values() for s in found]
    for origin in ("paper", "ours"):
        rivals = [s for s in chosen if s.mine.origin == origin and s.settings[0].method == "fastv"]
        # Of a model the FastV curve with the most comparisons.
        models = dict.fromkeys(s.mine.model for s in rivals)
        best = [
            max((s for s in rivals if s.mine.model == model), key=lambda s: len(s.comparisons))
            for model in models
        ]
        total, wins, losses = (
            sum(len(s.comparisons) for s in best),
            *(sum(s.count(kind) for s in best) for kind in ("win", "loss")),
        )
        if total:
            yield say("dyrate", name=WHOSE[origin], wins=wins, losses=losses, total=total, models=models)


def _against_chance(rankings: Sequence[Ranking]) -> Iterator[str]:
    """How many methods are better than to drop tokens at random: of the tightest budget."""
    parts, least = [], min((r.budget for r in rankings), default=0.0)
    for ranking in (r for r in rankings if r.budget == least):
        control = next(
            (p for p in ranking.places if p.settings[0].method == CHANCE or p.name.startswith(CHANCE)), None
        )
        if control and (real := _real(ranking)):
            better = sum((place.name, control.name) in ranking.sure for place in real)
            worse = sum((control.name, place.name) in ranking.sure for place in real)
            facts = {"better": better, "worse": worse, "real": real, "control": control}
            parts.append(say("chance_on", model=ranking.model, **facts))
    if parts:
        yield say("chance", share=least, parts=parts)


def _claimed(claims: Sequence[Claim]) -> Iterator[str]:
    """What becomes of the paper's claims, those of its own DyRate."""
    told = [claim for claim in claims if claim.whose != "ours" and claim.holds]
    if told:
        yield say("claimed", told=told, held=[claim for claim in told if all(claim.holds)])


def _unharmed(summary: dict[str, tuple[Line, ...]]) -> Iterator[str]:
    """Settings without a loss that could be shown, the leanest by name."""
    parts = []
    for model, found in summary.items():
        compared = [line for line in found if line.compared and not line.measurement.control]
        unharmed = [line for line in compared if not line.count("worse") and line.budget.prefill is not None]
        leanest = min(
            unharmed, key=lambda line: (line.budget.prefill or 0) + (line.budget.decode or 0), default=None
        )
        if compared:
            facts = {"unharmed": unharmed, "compared": compared, "leanest": leanest}
            parts.append(say("unharmed_on", model=model, **facts))
    if parts:
        yield say("unharmed", parts=parts)


def _without_image(main: Sequence[Measurement], answers: Answers) -> Iterator[str]:
    """What the benchmarks answer without an image."""
    blind = [m for m in main if m.method == BLIND and m.unpruned]
    found = [(m.model, kept) for m in blind if (kept := kept_of_unpruned(m, _asked(m), answers))]
    if found:
        yield say("blind", found=found)
