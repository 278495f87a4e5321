"""A study in a few plain sentences that a reader can repeat, and what of it was not run."""

from collections import Counter
from collections.abc import Iterator, Sequence

from dyrate.analysis.cells import Table
from dyrate.analysis.claims import Claim, default_standings, kept_of_unpruned
from dyrate.analysis.equal_budget import BLIND, Standing
from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.missing import Missing
from dyrate.analysis.paired import Answers
from dyrate.analysis.ranking import Place, Ranking
from dyrate.analysis.summary import Line, lines
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.results import Difference
from dyrate.study import Study

MOST = 5
LIMITS = (0.5, 2 / 3, 0.85)  # budgets at prefill that are tried where the study ranks at none
CHANCE = "random"
_WORDS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


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
    study: Study,
    measurements: Sequence[Measurement],
    tables: Sequence[Table],
    missing: Sequence[Missing],
) -> tuple[str, ...]:
    """What a reader might look for here and will not find, in sentences without their full stop."""
    sentences = []
    if missing:
        these = "1 thing that the study asks for is" if len(missing) == 1 else f"{len(missing)} things are"
        sentences.append(f"{these} missing, listed above")
    if left := [known.title for name, known in BENCHMARKS.items() if name not in study.benchmarks]:
        sentences.append(f"Benchmarks that this study leaves out: {', '.join(left)}")
    placed = {name for model in study.models for name in model.published}
    for table in tables:
        rows = [row.printed for row in table.rows if row.printed]
        empty = [row.printed for row in table.rows if row.printed and not row.measurement]
        if not table.measured or not empty:
            continue
        if len(empty) == len(rows):
            sentences.append(f"{table.number}: none of its {len(rows)} printed rows has a figure of ours")
        else:
            counted = Counter(row.title for row in rows)  # a title that comes again is another model's
            names = [row.title if counted[row.title] == 1 else f"{row.title} on {row.group}" for row in empty]
            sentences.append(
                f"{table.number}: {len(empty)} of its {len(rows)} printed rows have no figure of ours: "
                + ", ".join(names)
            )
    if not placed:
        sentences.append("No model here stands beside one of the paper’s")
    if not study.typed.trace:
        sentences.append("No trace of attention was made")
    if not any(m.method == NONE for m in measurements):
        sentences.append("The unpruned model was not run, so nothing is compared with it")
    return tuple(sentences)


def _ranked(rankings: Sequence[Ranking]) -> Iterator[str]:
    """The two best at each budget, models in one sentence."""
    for share in dict.fromkeys(ranking.budget for ranking in rankings):
        parts, benchmarks = [], 0
        for ranking in (r for r in rankings if r.budget == share):
            real = [place for place in ranking.places if not place.control]
            if not real:
                continue
            benchmarks = len(ranking.benchmarks)
            text = f"on {ranking.model} {real[0].name} keeps {_percent(real[0].kept)} of the unpruned score"
            parts.append(text + (_next(ranking, real[0], real[1]) if real[1:] else ""))
        if parts:
            yield (
                f"At {_share(share)} of the visual tokens, mean over {_number(benchmarks)} "
                f"benchmark{'' if benchmarks == 1 else 's'}: {'; '.join(parts)}."
            )


def _next(ranking: Ranking, first: Place, second: Place) -> str:
    sure = (first.name, second.name) in ranking.sure
    return (
        f", {second.name}, the next, {second.kept['value']:.1f}%"
        f"{'' if sure else ' (the two cannot be told apart)'}"
    )


def _best(main: Sequence[Measurement], answers: Answers) -> Iterator[str]:
    """The same from the settings as they were run, within the smallest budget that two of them keep to."""
    for model in dict.fromkeys(m.reference for m in main):
        known = []
        for m in main:
            whole = m.unpruned
            if m.reference != model or m.kind == NONE or m.control or whole is None:
                continue
            names = [name for name in whole.result["benchmarks"] if name in BENCHMARKS]
            spent = m.budget(*names).prefill
            if spent is not None and names and (kept := kept_of_unpruned(m, names, answers)):
                known.append((kept["value"], spent, kept, m, len(names)))
        for limit in LIMITS:
            within = sorted((one for one in known if one[1] <= limit + 0.005), key=lambda one: -one[0])
            if len(within) > 1:
                (_, spent, kept, m, count), (_, other_spent, other, second, _) = within[:2]
                yield (
                    f"With at most {_share(limit)} of the visual tokens at prefill, {m.title} keeps "
                    f"{_percent(kept)} of {model}’s unpruned score on {_number(count)} benchmarks, with "
                    f"{_share(spent)} of the tokens; {second.title}, the next, {_percent(other)}, with "
                    f"{_share(other_spent)}."
                )
                break


def _dyrate(standings: Sequence[Standing]) -> Iterator[str]:
    """Wins and losses of each model's default DyRate against FastV, models added up, the paper's and ours."""
    chosen = [s for found in default_standings(standings).values() for s in found]
    for origin, name in (("paper", "DyRate"), ("ours", "DyRate+, which is ours,")):
        rivals = [s for s in chosen if s.mine.origin == origin and s.settings[0].method == "fastv"]
        best: dict[str, Standing] = {}
        for s in rivals:  # of a model the FastV curve with the most comparisons
            if s.mine.model not in best or len(s.comparisons) > len(best[s.mine.model].comparisons):
                best[s.mine.model] = s
        total = sum(len(s.comparisons) for s in best.values())
        if total:
            wins, losses = (sum(s.count(kind) for s in best.values()) for kind in ("win", "loss"))
            yield (
                f"At equal budget {name} wins {wins} of {total} comparisons with FastV and loses {losses}; "
                f"the other {total - wins - losses} cannot be told apart (on {', '.join(best)})."
            )


def _against_chance(rankings: Sequence[Ranking]) -> Iterator[str]:
    """How many methods are better than to drop tokens at random: of the tightest budget."""
    parts, least = [], min((r.budget for r in rankings), default=0.0)
    for ranking in (r for r in rankings if r.budget == least):
        control = next(
            (p for p in ranking.places if p.settings[0].method == CHANCE or p.name.startswith(CHANCE)), None
        )
        real = [place for place in ranking.places if not place.control]
        if control and real:
            better = sum((place.name, control.name) in ranking.sure for place in real)
            worse = sum((control.name, place.name) in ranking.sure for place in real)
            parts.append(
                f"on {ranking.model} {better} of {len(real)} methods are better for sure and {worse} worse "
                f"(random keeps {control.kept['value']:.1f}%)"
            )
    if parts:
        yield f"Against dropping tokens at random, at {_share(least)} of them kept: {'; '.join(parts)}."


def _claimed(claims: Sequence[Claim]) -> Iterator[str]:
    """What becomes of the paper's claims, those of its own DyRate."""
    told = [claim for claim in claims if "DyRate+" not in claim.claim and claim.holds]
    if told:
        held = [claim for claim in told if all(claim.holds)]
        which = " and ".join(f"“{claim.claim.replace('does so', 'keeps as much')}”" for claim in held)
        yield (
            f"Of the paper’s {_number(len(told))} claim{'' if len(told) == 1 else 's'} that can be told, "
            f"{_number(len(held)) if held else 'none'} hold{'' if len(held) > 1 else 's'} in every case"
            f"{f': {which}' if held else ''}."
        )


def _unharmed(summary: dict[str, tuple[Line, ...]]) -> Iterator[str]:
    """Settings without a loss that could be shown, the leanest by name."""
    parts = []
    for model, found in summary.items():
        compared = [line for line in found if line.compared and not line.measurement.control]
        unharmed = [line for line in compared if not line.count("worse") and line.budget.prefill is not None]
        if not compared:
            continue
        text = f"on {model} {len(unharmed)} of {len(compared)}"
        if unharmed:
            leanest = min(unharmed, key=lambda line: (line.budget.prefill or 0) + (line.budget.decode or 0))
            text += (
                f", the leanest {leanest.measurement.title} with {_share(leanest.budget.prefill)} of the "
                "visual tokens at prefill"
            )
        parts.append(text)
    if parts:
        yield (
            f"Settings of the main tables without a loss that could be shown on any benchmark: "
            f"{'; '.join(parts)}."
        )


def _without_image(main: Sequence[Measurement], answers: Answers) -> Iterator[str]:
    """What the benchmarks answer without an image."""
    parts = []
    for m in main:
        whole = m.unpruned
        if m.method == BLIND and whole:
            names = [name for name in whole.result["benchmarks"] if name in BENCHMARKS]
            if kept := kept_of_unpruned(m, names, answers):
                parts.append(f"{m.model} keeps {kept['value']:.1f}%")
    if parts:
        yield f"Without any visual token {' and '.join(parts)} of its unpruned score: less says nothing."


def _percent(kept: Difference) -> str:
    text = f"{kept['value']:.1f}%"
    if kept["low"] is None or kept["high"] is None:
        return text
    return f"{text} [{kept['low']:.1f} to {kept['high']:.1f}]"


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{100 * value:.0f}%"


def _number(count: int) -> str:
    return _WORDS[count] if count < len(_WORDS) else str(count)
