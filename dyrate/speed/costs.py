"""What contenders' generations cost: FLOPs and bytes that the bench has counted from the runs themselves.

Documents from before it stored them have shares of the device's limits instead, and these are taken back: to
FLOPs of prefill, to the bytes of a decode step, and by the keys and values among these to its FLOPs. What a
method computes on top at decode is not in the latter: of the whole, less than 0.01% of the unpruned model's.
"""

from functools import cache
from typing import Literal

from dyrate.cost.flops import CONVENTIONS, count
from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import Work
from dyrate.speed.documents import BenchDocument, Spread, Timing

Scope = Literal["prefill", "cached"]
CONVENTION = "flops"
"""What is counted: everything, two per multiply-accumulate."""


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
    """Return what a decode step of a batch must read: weights once, and every row's keys and values."""
    if timing.step_bytes is not None or timing.per_token_ms is None or timing.bandwidth_share is None:
        return timing.step_bytes
    return timing.bandwidth_share * bench.limits.bytes_per_second * timing.per_token_ms.median / 1000


def step_flops(bench: BenchDocument, timing: Timing) -> float | None:
    """Return the FLOPs of a decode step of a batch, the mean over its steps; None where there was none."""
    if timing.flops is not None:
        counted, steps = timing.flops[CONVENTION], timing.new_tokens - 1
        return (counted["cached"] - counted["prefill"]) / steps if steps else None
    read = step_bytes(bench, timing)
    if read is None:
        return None
    text, batch = bench.sizes.text, timing.batch
    keys = max(read - weight_bytes(bench.sizes, bench.bytes_per_number), 0) / bench.bytes_per_number
    per_layer = round(keys / text.kv_width / text.layers)
    work = Work((batch,) * text.layers, (per_layer,) * text.layers, logits=batch)
    return float(count(work, bench.sizes, CONVENTIONS[CONVENTION]).total)


def flops(bench: BenchDocument, timing: Timing, where: Scope) -> float:
    """Return the FLOPs of a batch's prefill, or of its generation."""
    if timing.flops is not None:
        return timing.flops[CONVENTION][where]
    share = timing.matrix_share * bench.limits.flops_per_second * timing.first_token_ms.median / 1000
    prefill = share if timing.prefill_flops is None else timing.prefill_flops
    later = 0.0 if where == "prefill" else step_flops(bench, timing) or 0.0
    return prefill + (timing.new_tokens - 1) * later


def percent(bench: BenchDocument, timing: Timing, whole: Timing, where: Scope) -> float:
    """Return a contender's FLOPs in percent of those of the unpruned model under the same load."""
    return 100 * flops(bench, timing, where) / flops(bench, whole, where)


def same(bench: BenchDocument, timing: Timing) -> Timing | None:
    """Return the unpruned contender on the same engine; where there is none, transformers' own generate()."""
    mine = [row for row in bench.under(timing.load) if row.engine == timing.engine]
    peers = [row for row in mine if row.method is None and row.contender == "generate"]
    return next(iter([*(row for row in mine if row.unpruned), *peers]), None)


def ratio(mine: Spread | None, theirs: Spread | None) -> float | None:
    """Return a median over another; None where one token was made."""
    return mine.median / theirs.median if mine and theirs else None
