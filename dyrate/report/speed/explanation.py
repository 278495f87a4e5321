"""Why FLOPs, latency and bytes disagree, in plain words: each number is measured or counted, none written.

Sentences on measurements that no document has are left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dyrate.analysis.words import say
from dyrate.cost.flops import CONVENTIONS, SCOPES, count, scope
from dyrate.cost.grid import Drop, percentages
from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.cost.work import schedule
from dyrate.speed import costs
from dyrate.speed.documents import BenchDocument, Load, Timing
from dyrate.speed.series import TimingSetting, by_batch

MODEL = "LLaVA-1.5-7B"
EXAMPLE = Drop(2, 0.5)  # FastV's, of the paper's Table III
LEAN = Drop(2, 0.9)
ENDS = 1, 32
"""The batches that the text is about where nothing was measured."""
TEXT, NEW = np.array([32.0, 64.0, 128.0]), np.array([1.0, 16.0, 128.0])


@dataclass(frozen=True)
class Paragraph:
    """A claim, and why it holds."""

    claim: str
    text: str


Pairs = dict[int, tuple[Timing, Timing]]
"""By batch: a contender and the unpruned model, both of one document and load."""


@dataclass(frozen=True)
class Case:
    """The measurements that the text is about: documents with one shape, device, dtype, prompt and N."""

    benches: tuple[BenchDocument, ...]
    setting: TimingSetting

    @property
    def bench(self) -> BenchDocument:
        """The first document."""
        return self.benches[0]

    @property
    def timings(self) -> tuple[tuple[BenchDocument, Timing], ...]:
        """What was measured in this setting, by document."""
        wanted = self.setting.prompt, self.setting.new_tokens
        return tuple(
            (bench, timing)
            for bench in self.benches
            for timing in bench.rows
            if (timing.prompt, timing.new_tokens) == wanted
        )

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest batch."""
        batches = {timing.batch for _, timing in self.timings}
        return min(batches), max(batches)

    @property
    def leanest(self) -> Pairs | None:
        """The method that was measured over the widest range of batches, and of these the one with the
        smallest cache.
        """
        candidates = _beside(self.timings, lambda timing: timing.engine == "graph" and timing.reduces)
        return min(
            candidates,
            key=lambda pairs: (-max(pairs) / min(pairs), pairs[max(pairs)][0].kv_bytes),
            default=None,
        )


def _beside(timings: Iterable[tuple[BenchDocument, Timing]], fits: Callable[[Timing], bool]) -> list[Pairs]:
    """Return the contenders that fit, beside the unpruned model in this package's engine, by batch."""
    by_label: dict[str, Pairs] = {}
    for bench, timing in timings:
        theirs = [other for other in bench.under(timing.load) if other.engine == "graph" and other.unpruned]
        if theirs and fits(timing):
            by_label.setdefault(timing.label, {}).setdefault(timing.batch, (timing, theirs[0]))
    return list(by_label.values())


def case_of(benches: Sequence[BenchDocument]) -> Case | None:
    """Return the setting of the 7B shape with the most batches and contenders; None without measurements."""
    mine = [bench for bench in benches if bench.shape_name == MODEL]
    settings = by_batch(mine)
    if not settings:
        return None
    setting = max(settings, key=lambda setting: sum(len(one.timings) for one in settings[setting]))
    wanted = setting.device, setting.dtype, setting.prompt, setting.new_tokens
    measured = [
        bench
        for bench in mine
        if any((bench.device, bench.dtype, load.prompt, load.new_tokens) == wanted for load in bench.loads)
    ]
    return Case(tuple(measured), setting)


def paragraphs(benches: Sequence[BenchDocument]) -> tuple[Paragraph, ...]:
    """Return the text; without measurements, what the ledger alone says, for a prompt of 640 tokens."""
    case, shape = case_of(benches), LLAVA[MODEL]
    load = Load(1, case.setting.prompt, case.setting.new_tokens) if case else Load(1, 640, 33)
    pairs = (case.leanest if case else None) or {}
    top = pairs[max(pairs)] if pairs else None
    told: dict[str, tuple[str, Mapping[str, Any]]] = {
        "prefill": ("Prefill is bound by arithmetic.", _prefill(case, top)),
        "decode": ("Decode is bound by bytes.", _decode(shape, load, case, pairs)),
        "eager": ("Starting kernels one by one hides what decode saves.", _eager(benches)),
        "text_only": ("No visual token is not no FLOPs.", _text_only(shape, load)),
        "choices": ("A percentage of FLOPs is three choices.", _choices(shape)),
        "bytes_held": ("A share of the visual tokens is no share of the bytes.", _bytes(shape, load, case)),
    }
    shared = {"load": load, "case": case, "top": top}
    return tuple(Paragraph(claim, say(name, **shared, **facts)) for name, (claim, facts) in told.items())


def _prefill(case: Case | None, top: tuple[Timing, Timing] | None) -> Mapping[str, Any]:
    limits = case.bench.limits if case else None
    return {
        "ridge": limits and limits.flops_per_second / limits.bytes_per_second,
        "flops": costs.percent(case.bench, *top, "prefill") if case and top else None,
        "time": top and top[0].first_token_ms.median / top[1].first_token_ms.median,
    }


def _decode(shape: ModelShape, load: Load, case: Case | None, pairs: Pairs) -> Mapping[str, Any]:
    size = _size(case)
    weights = costs.weight_bytes(shape, size)
    row = load.prompt * shape.text.layers * shape.text.kv_width * size
    ends = case.ends if case else ENDS
    measured = {batch: costs.ratio(*(one.per_token_ms for one in pairs[batch])) for batch in sorted(pairs)}
    return {
        "weights": weights / 1e9,
        "row": row / 1e9,
        "shares": [(batch * row / (batch * row + weights), batch) for batch in ends],
        "measured": [
            (share, batch)
            for batch, share in measured.items()
            if share is not None and batch in (min(pairs), max(pairs))
        ],
    }


def _eager(benches: Sequence[BenchDocument]) -> Mapping[str, Any]:
    timings = ((bench, timing) for bench in benches if bench.shape_name == MODEL for timing in bench.rows)
    pairs = _beside(timings, lambda timing: timing.method is None and timing.contender == "generate")
    low = min(pairs[0]) if pairs else 0
    known = [t for t in (pairs[0][low] if pairs else ()) if t.per_token_ms and t.bandwidth_share is not None]
    eager, graph = (next((t for t in known if (t.engine == "graph") == on), None) for on in (False, True))
    return {"low": low, "eager": eager, "graph": graph}


def _text_only(shape: ModelShape, load: Load) -> Mapping[str, Any]:
    visual, layers, steps = shape.vision.patches, shape.text.layers, load.new_tokens - 1
    text, whole = (schedule([n] * layers, steps, visual) for n in (load.prompt - visual, load.prompt))
    prefill, cached = (
        [count(scope(work, where), shape, CONVENTIONS["flops"]) for work in (text, whole)]
        for where in ("prefill", "cached")
    )
    return {
        "prefill": 100 * prefill[0].total / prefill[1].total,
        "cached": 100 * cached[0].total / cached[1].total,
        "seeing": (prefill[0].vision + prefill[0].projector) / prefill[0].total,
    }


def _choices(shape: ModelShape) -> Mapping[str, Any]:
    shares = [
        percentages(shape, EXAMPLE, convention, where, TEXT, NEW).ravel()
        for convention in CONVENTIONS
        for where in SCOPES
    ]
    found = np.concatenate(shares)
    lengths = {"text": (TEXT[0], TEXT[-1]), "new": (NEW[0], NEW[-1])}
    return {"model": MODEL, "drop": EXAMPLE, "least": found.min(), "most": found.max(), **lengths}


def _bytes(shape: ModelShape, load: Load, case: Case | None) -> Mapping[str, Any]:
    visual, layers = shape.vision.patches, shape.text.layers
    text, kept = load.prompt - visual, round((1 - LEAN.rate) * visual)
    full, held = layers * load.prompt, LEAN.layer * load.prompt + (layers - LEAN.layer) * (text + kept)
    token, weights = shape.text.kv_width * _size(case), costs.weight_bytes(shape, _size(case))
    return {
        "drop": LEAN,
        "text": text,
        "cache": held / full,
        "reads": [
            ((weights + batch * held * token) / (weights + batch * full * token), batch)
            for batch in (case.ends if case else ENDS)
        ],
    }


def _size(case: Case | None) -> int:
    """Bytes per number; those of bfloat16 without measurements."""
    return case.bench.bytes_per_number if case else 2
