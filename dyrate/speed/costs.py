"""What a contender's generation costs, worked out from its method's settings: tokens, FLOPs, bytes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from dyrate.cost.flops import CONVENTIONS, count, scope
from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import Phases, Work
from dyrate.speed.documents import BenchDocument, CountedMethod, Load, Method, Spread, Timing


def attended(method: Method | None, visual: int, steps: int) -> tuple[int, list[int]] | None:
    """Return the prune layer K, and how many visual tokens the layers from K on attend to: at prefill, then
    at each of `steps` decode steps.

    Only for methods whose settings say it (those of transformers itself, FastV, VTW, text only, replayed
    rates); None for others, whose counts depend on the input.
    """
    if method is None or method.name == "none":
        return 0, [visual] * (steps + 1)
    if method.name == "text_only":
        return 0, [0] * (steps + 1)
    if not isinstance(method, CountedMethod) or method.layer is None:
        return None
    if method.name == "vtw":
        return method.layer, [0] * (steps + 1)
    if method.name == "fastv" and method.rate is not None:
        return method.layer, [_kept(method.rate, visual)] * (steps + 1)
    if method.name == "replay" and method.rates is not None:
        return method.layer, _replayed(method, method.rates, visual, steps)
    return None


def _kept(rate: float, visual: int) -> int:
    return round((1 - rate) * visual)


def _replayed(method: CountedMethod, rates: Sequence[float], visual: int, steps: int) -> list[int]:
    """As `StepwisePruning` does it: what is selected is a choice for one step, what is evicted is gone."""
    least = round(method.minimum * visual)
    held = before = visual
    kept = []
    for step in range(steps + 1):
        wanted = max(_kept(rates[min(step, len(rates) - 1)], visual), least)
        if step and method.monotone:
            wanted = min(wanted, before)
        before = wanted
        if step == 0:
            held = before = wanted if method.prune_prefill else visual
        elif method.mode == "evict" and held - wanted >= method.evict_at_least:
            held = wanted
        kept.append(min(held, wanted) if step and method.mode == "select" else held)
    return kept


def phases(method: Method | None, shape: ModelShape, load: Load) -> Phases | None:
    """Return the work of one row of a batch; None where the method's settings do not say it."""
    visual, layers, steps = shape.vision.patches, shape.text.layers, load.new_tokens - 1
    counts = attended(method, visual, steps)
    if counts is None:
        return None
    first, text = min(counts[0], layers), load.prompt - visual
    lengths = [
        [load.prompt + step] * first + [text + count + step] * (layers - first)
        for step, count in enumerate(counts[1])
    ]
    nothing = Work.none(layers)
    at_prefill = later = nothing
    if method is not None and method.name in ("fastv", "replay") and first > 0:
        # Layer K-1's last query, once more at every step.
        at_prefill = replace(nothing, scored=load.prompt, scored_prompt=load.prompt)
        keys = sum(row[first - 1] for row in lengths[1:])
        later = replace(nothing, scored=keys, scored_prompt=keys - sum(range(1, steps + 1)))
    return Phases(
        Work.encoder(layers, 1, visual) + Work.prefill(lengths[0]) + at_prefill,
        later.plus(map(Work.step, lengths[1:])),
        later.plus(map(Work.prefill, lengths[1:])),
        steps,
    )


def percent(
    method: Method | None, shape: ModelShape, load: Load, convention: str, where: str
) -> float | None:
    """Return a generation's FLOPs in percent of the unpruned model's; None as `phases`."""
    mine, whole = phases(method, shape, load), phases(None, shape, load)
    if mine is None or whole is None:
        return None
    one, other = (count(scope(work, where), shape, CONVENTIONS[convention]).total for work in (mine, whole))
    return 100 * one / other


@cache
def weight_bytes(shape: ModelShape, bytes_per_number: int, prefill: bool = False) -> int:
    """Return the bytes of weights that a decode step reads, or those of a prefill: the encoder's as well."""
    text, vision = shape.text, shape.vision
    numbers = text.parameters - text.vocabulary * text.hidden  # of the embedding, only a row per token
    if prefill:
        layer = 4 * vision.hidden**2 + 2 * vision.hidden * vision.intermediate
        numbers += vision.layers * layer + vision.patch_inputs * vision.hidden
        numbers += vision.hidden * text.hidden + text.hidden**2
    return numbers * bytes_per_number


def step_bytes(bench: BenchDocument, timing: Timing) -> float | None:
    """Return what a decode step of a batch must read, weights once and every row's keys and values: the
    share of the bandwidth, taken back to bytes.
    """
    if timing.per_token_ms is None or timing.bandwidth_share is None:
        return None
    return timing.bandwidth_share * bench.limits.bytes_per_second * timing.per_token_ms.median / 1000


def step_flops(bench: BenchDocument, timing: Timing) -> float | None:
    """Return the FLOPs of a decode step of a batch."""
    read = step_bytes(bench, timing)
    if read is None:
        return None
    text, batch = bench.sizes.text, timing.batch
    keys = max(read - weight_bytes(bench.sizes, bench.bytes_per_number), 0) / bench.bytes_per_number
    per_layer = round(keys / text.kv_width / text.layers)
    work = Work((batch,) * text.layers, (per_layer,) * text.layers, logits=batch)
    return float(count(work, bench.sizes, CONVENTIONS["flops"]).total)


def prefill_flops(bench: BenchDocument, timing: Timing) -> float:
    """Return the FLOPs of a batch's prefill: the share of the matrix peak, taken back to FLOPs."""
    return timing.matrix_share * bench.limits.flops_per_second * timing.first_token_ms.median / 1000


def same(bench: BenchDocument, timing: Timing) -> Timing | None:
    """Return the unpruned contender on the same engine; where there is none, transformers' own generate()."""
    mine = [row for row in bench.under(timing.load) if row.engine == timing.engine]
    peers = [row for row in mine if row.method is None and row.contender == "generate"]
    return next(iter([*(row for row in mine if row.unpruned), *peers]), None)


def ratio(mine: Spread | None, theirs: Spread | None) -> float | None:
    """Return a median over another; None where one token was made."""
    return mine.median / theirs.median if mine and theirs else None
