"""FLOPs of the measured rows, from the work in their result files: always with a convention, t and N."""

from collections.abc import Sequence
from dataclasses import dataclass

from dyrate.analysis.cells import Column
from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.words import say
from dyrate.cost.flops import CONVENTIONS, SCOPES, count, scope
from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import Phases


@dataclass(frozen=True)
class Spent:
    """What a setting spent on a benchmark, per sample."""

    measurement: Measurement
    benchmark: str
    text_tokens: float
    """t: tokens of the prompt that are not visual, mean over samples."""
    new_tokens: float
    """N: tokens of the answer, mean over samples."""
    flops: dict[tuple[str, str], float]
    """By convention and scope: TFLOPs (or tera multiply-accumulates, where the convention counts these)."""


def spent(m: Measurement, benchmark: str) -> Spent | None:
    """Return it; None where the result does not say."""
    result, shape = m.benchmark(benchmark), m.result.get("shape")
    if result is None or shape is None or not result.get("work") or result["visual_tokens"] is None:
        return None
    phases, sizes = Phases.of(result["work"] or {}), ModelShape.read(shape)
    rows = phases.prefill.logits  # each row of the batch, beams among them, has one at prefill
    return Spent(
        measurement=m,
        benchmark=benchmark,
        text_tokens=phases.prefill.tokens[0] / rows - result["visual_tokens"]["prefill"][0],
        new_tokens=phases.steps / rows + 1,
        flops={
            (convention, name): count(scope(phases, name), sizes, CONVENTIONS[convention]).total
            / result["samples"]
            / 1e12
            for convention in CONVENTIONS
            for name in SCOPES
        },
    )


def percentages(mine: Spent) -> dict[tuple[str, str], float]:
    """Return its FLOPs in percent of the unpruned model's own generation, by convention and scope."""
    whole = mine.measurement.unpruned
    theirs = spent(whole, mine.benchmark) if whole else None
    return {key: 100 * value / theirs.flops[key] for key, value in mine.flops.items()} if theirs else {}


PRINTED = "flops", "cached"
"""What stands in the tables of the report: everything, over the whole generation."""


def percent(m: Measurement, benchmark: str) -> str | None:
    """Return a row's percentage as the tables print it."""
    mine = spent(m, benchmark)
    share = percentages(mine).get(PRINTED) if mine else None
    return None if share is None else f"{share:.1f}"


def flops(key: str, note: str) -> Column:
    """Return the column of that percentage on NoCaps; the key is that of the printed one, too."""
    here, why_not = (lambda m: percent(m, "nocaps")), (lambda m: m.missing.get("nocaps"))
    return Column(key, "FLOPs", "% of unpruned, ↓", key, note, here, why_not)


def note(benchmark: str, measurements: Sequence[Measurement]) -> str:
    """Return what the printed percentages mean, with the t and N of the unpruned models."""
    whole = [m for m in measurements if m.kind == NONE and m.group == "main"]
    lengths = [(m.model, mine) for m in whole if (mine := spent(m, benchmark))]
    about, counted = CONVENTIONS[PRINTED[0]].about, SCOPES[PRINTED[1]]
    return say("flops", convention=PRINTED[0], about=about, scope=counted, lengths=lengths)
