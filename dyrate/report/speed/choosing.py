"""What it takes to choose tokens: methods beside controls that drop as many without choosing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyrate.speed.costs import flops
from dyrate.speed.documents import GIVEN, BenchDocument, Timing


@dataclass(frozen=True)
class Choosing:
    """What a method's choice takes of the time to the first token, and of its FLOPs."""

    name: str
    batch: int
    milliseconds: float
    time_share: float
    """Of the unpruned model's time to the first token."""
    flops_share: float
    """Of the unpruned model's FLOPs at prefill."""
    first_token_ms: float
    unpruned_ms: float


def choosing(benches: Sequence[BenchDocument]) -> list[tuple[BenchDocument, list[Choosing]]]:
    """What choosing takes, of the documents in which methods have a control without choice."""
    found = []
    for bench in benches:
        lines = [line for load in bench.loads for line in _choosing(bench, bench.under(load))]
        if lines:
            found.append((bench, lines))
    return found


def _choosing(bench: BenchDocument, timings: Sequence[Timing]) -> Iterator[Choosing]:
    unpruned = {t.engine: t for t in timings if t.unpruned}
    controls = {(t.contender.removeprefix(GIVEN), t.engine): t for t in timings if t.given}
    for t in timings:
        whole = unpruned.get(t.engine)
        control = controls.get((t.name, t.engine)) if t.reduces else None
        if whole is None or control is None:
            continue
        first = whole.first_token_ms.median
        more = t.first_token_ms.median - control.first_token_ms.median
        mine, bare, all_of_it = (flops(bench, one, "prefill") for one in (t, control, whole))
        share = (mine - bare) / all_of_it
        yield Choosing(t.name, t.batch, more, more / first, share, t.first_token_ms.median, first)
