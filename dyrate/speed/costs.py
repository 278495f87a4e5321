"""What a contender's generation costs, worked out from its method's settings: tokens, FLOPs, bytes."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from dyrate.cost.flops import CONVENTIONS, count, scope
from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import Phases, Work
from dyrate.speed.documents import BenchDocument, TimedLoad, Timing

_WHOLE = ("none", None)


def attended(method: dict[str, Any] | None, visual: int, steps: int) -> tuple[int, list[int]] | None:
    """Return the prune layer K, and how many visual tokens the layers from K on attend to: at prefill, then
    at each of `steps` decode steps.

    Only for methods whose settings say it (those of transformers itself, FastV, VTW, text only, replayed
    rates); None for others, whose counts depend on the input.
    """
    name = method["name"] if method else None
    if method is None or name in _WHOLE:
        return 0, [visual] * (steps + 1)
    if name == "text_only":
        return 0, [0] * (steps + 1)
    if name == "vtw" and "layer" in method:
        return method["layer"], [0] * (steps + 1)
    if name == "fastv" and {"layer", "rate"} <= method.keys():
        return method["layer"], [_kept(method["rate"], visual)] * (steps + 1)
    if name == "replay" and "layer" in method and isinstance(method.get("rates"), list):
        return method["layer"], _replayed(method, visual, steps)
    return None


def _kept(rate: float, visual: int) -> int:
    return round((1 - rate) * visual)


def _replayed(method: dict[str, Any], visual: int, steps: int) -> list[int]:
    """As `StepwisePruning` does it: what is selected is a choice for one step, what is evicted is gone."""
    rates, mode = method["rates"], method.get("mode", "select")
    least = round(method.get("minimum", 0.0) * visual)
    held = before = visual
    kept = []
    for step in range(steps + 1):
        wanted = max(_kept(rates[min(step, len(rates) - 1)], visual), least)
        if step and method.get("monotone", False):
            wanted = min(wanted, before)
        before = wanted
        if step == 0:
            prunes = method.get("prune_prefill", True)
            held = wanted if prunes else visual
            before = wanted if prunes else visual
        elif mode == "evict" and held - wanted >= method.get("evict_at_least", 1):
            held = wanted
        kept.append(min(held, wanted) if step and mode == "select" else held)
    return kept


def phases(method: dict[str, Any] | None, shape: ModelShape, load: TimedLoad) -> Phases | None:
    """Return the work of one row of a batch; None where the method's settings do not say it."""
    visual, layers, steps = shape.vision.patches, shape.text.layers, load.new_tokens - 1
    counts = attended(method, visual, steps)
    if counts is None:
        return None
    first, seen = min(counts[0], layers), counts[1]
    text = load.prompt - visual
    lengths = [[text + visual + step for step in range(steps + 1)]] * first
    lengths += [[text + count + step for step, count in enumerate(seen)]] * (layers - first)
    prompt, later = [row[0] for row in lengths], [row[1:] for row in lengths]
    statistics = method is not None and method["name"] in ("fastv", "replay") and first > 0
    keys = sum(lengths[first - 1]) if statistics else 0  # layer K-1's last query, once more at every step
    whole = prompt[first - 1] if statistics else 0
    answer = sum(range(1, steps + 1)) if statistics else 0
    nothing = (0,) * layers
    return Phases(
        Work.encoder(layers, 1, visual)
        + Work.prefill(prompt)
        + Work(nothing, nothing, scored=whole, scored_prompt=whole),
        Work(
            (steps,) * layers,
            tuple(map(sum, later)),
            logits=steps,
            scored=keys - whole,
            scored_prompt=keys - whole - answer,
        ),
        Work(
            tuple(map(sum, later)),
            tuple(sum(n * n for n in row) for row in later),
            logits=steps,
            scored=keys - whole,
            scored_prompt=keys - whole - answer,
        ),
        steps,
    )


def percent(
    method: dict[str, Any] | None, shape: ModelShape, load: TimedLoad, convention: str, where: str
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
    if timing.per_token is None or timing.bandwidth_share is None:
        return None
    return timing.bandwidth_share * bench.bytes_per_second * timing.per_token.median / 1000


def step_flops(bench: BenchDocument, timing: Timing) -> float | None:
    """Return the FLOPs of a decode step of a batch."""
    read = step_bytes(bench, timing)
    if read is None:
        return None
    text, batch = bench.shape.text, timing.load.batch
    keys = max(read - weight_bytes(bench.shape, bench.bytes_per_number), 0) / bench.bytes_per_number
    per_layer = round(keys / text.kv_width / text.layers)
    work = Work((batch,) * text.layers, (per_layer,) * text.layers, logits=batch)
    return float(count(work, bench.shape, CONVENTIONS["flops"]).total)


def prefill_flops(bench: BenchDocument, timing: Timing) -> float:
    """Return the FLOPs of a batch's prefill: the share of the matrix peak, taken back to FLOPs."""
    return timing.matrix_share * bench.flops_per_second * timing.first_token.median / 1000


def same(timings: Sequence[Timing], timing: Timing) -> Timing | None:
    """Return the unpruned contender on the same engine; where there is none, transformers' own generate()."""
    mine = [t for t in timings if t.load == timing.load and t.engine == timing.engine]
    unpruned = [t for t in mine if t.method is not None and t.method["name"] == "none"]
    peers = [t for t in mine if t.method is None and t.contender == "generate"]
    return next(iter([*unpruned, *peers]), None)
