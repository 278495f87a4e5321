"""Why FLOPs, latency and bytes disagree, in plain words: each number is measured or counted, none written.

Sentences on measurements that no document has are left out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dyrate.cost.flops import CONVENTIONS, SCOPES, count
from dyrate.cost.grid import Drop, percentages
from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.speed import costs
from dyrate.speed.documents import BenchDocument, Load, Method, Timing
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
    case = case_of(benches)
    shape = LLAVA[MODEL]
    load = Load(1, case.setting.prompt, case.setting.new_tokens) if case else Load(1, 640, 33)
    return tuple(
        Paragraph(claim, " ".join(sentences))
        for claim, sentences in (
            ("Prefill is bound by arithmetic.", _prefill(load, case)),
            ("Decode is bound by bytes.", _decode(shape, load, case)),
            ("Starting kernels one by one hides what decode saves.", _eager(benches)),
            ("No visual token is not no FLOPs.", _text_only(shape, load)),
            ("A percentage of FLOPs is three choices.", _choices(shape)),
            ("A share of the visual tokens is no share of the bytes.", _bytes(shape, load, case)),
        )
    )


def _prefill(load: Load, case: Case | None) -> Iterator[str]:
    yield (
        f"All {load.prompt} tokens of a prompt go through each weight matrix together, so a weight that is "
        f"read is used {load.prompt} times."
    )
    if case is None:
        return
    ridge = case.bench.limits.flops_per_second / case.bench.limits.bytes_per_second
    yield (
        f"The {case.bench.device} can do {ridge:.0f} FLOPs while it moves one byte; above that, its "
        "matrix units set the pace."
    )
    pairs = case.leanest
    if not pairs:
        return
    mine, theirs = pairs[top := max(pairs)]
    yield f"At batch {top}, unpruned prefill has {theirs.matrix_share:.0%} of their peak."
    share = costs.percent(mine.method, case.bench.sizes, mine.load, "flops", "prefill")
    if share is not None:
        yield (
            f"Beside it, {mine.label} has {share:.0f}% of its FLOPs and takes "
            f"{mine.first_token_ms.median / theirs.first_token_ms.median:.0%} of its time."
        )


def _decode(shape: ModelShape, load: Load, case: Case | None) -> Iterator[str]:
    size = _size(case)
    weights = costs.weight_bytes(shape, size)
    row = load.prompt * shape.text.layers * shape.text.kv_width * size
    low, high = case.ends if case else ENDS
    yield (
        f"A step has one token per row. It reads the weights once, whatever the batch ({weights / 1e9:.1f} "
        f"GB), and the keys and values of every row ({row / 1e9:.2f} GB each). Only the latter can shrink: "
        f"{low * row / (low * row + weights):.0%} of the bytes at batch {low}, "
        f"{high * row / (high * row + weights):.0%} at batch {high}."
    )
    pairs = (case.leanest if case else None) or {}
    measured = [
        f"{share:.0%} at batch {batch}"
        for batch, (mine, theirs) in sorted(pairs.items())
        if batch in (min(pairs), max(pairs))
        and (share := costs.ratio(mine.per_token_ms, theirs.per_token_ms)) is not None
    ]
    if measured:
        label = pairs[max(pairs)][0].label
        yield f"{label} takes, of the unpruned time per token, {' and '.join(measured)}."


def _eager(benches: Sequence[BenchDocument]) -> Iterator[str]:
    yield (
        "Python starts hundreds of small kernels per step; at small batches each ends before the next one "
        "starts, and the GPU waits."
    )
    timings = ((bench, timing) for bench in benches if bench.shape_name == MODEL for timing in bench.rows)
    pairs = _beside(timings, lambda timing: timing.method is None and timing.contender == "generate")
    if not pairs:
        return
    eager, graph = pairs[0][low := min(pairs[0])]
    if eager.per_token_ms and eager.bandwidth_share is not None:
        taken = eager.per_token_ms.median
        waits = eager.bandwidth_share < 0.5
        yield (
            f"At batch {low}, a step of transformers’ generate() takes {taken:.1f} ms, and reading its bytes "
            f"alone {taken * eager.bandwidth_share:.1f} ms"
            + (": what a method saves of the latter hardly shows." if waits else ".")
        )
    if graph.per_token_ms and graph.bandwidth_share is not None:
        yield (
            f"The same step as one CUDA graph takes {graph.per_token_ms.median:.1f} ms, "
            f"{graph.bandwidth_share:.0%} of the bandwidth."
        )


def _text_only(shape: ModelShape, load: Load) -> Iterator[str]:
    method = Method(name="text_only")
    share = {where: costs.percent(method, shape, load, "flops", where) for where in ("prefill", "cached")}
    work = costs.phases(method, shape, load)
    assert work is not None
    parts = count(work.prefill, shape, CONVENTIONS["flops"])
    yield (
        f"text_only drops every visual token before the first layer and still has {share['prefill']:.0f}% of "
        f"the FLOPs of prefill, {share['cached']:.0f}% of those of prefill and {load.new_tokens} tokens. The "
        f"vision encoder and the projector have run ({(parts.vision + parts.projector) / parts.total:.0%} of "
        "what is left of prefill), and the text remains."
    )


def _choices(shape: ModelShape) -> Iterator[str]:
    shares = np.concatenate(
        [
            percentages(shape, EXAMPLE, convention, scope, TEXT, NEW).ravel()
            for convention in CONVENTIONS
            for scope in SCOPES
        ]
    )
    yield (
        f"What counts, the prompt’s text t, the answer’s length N. On {MODEL}, dropping {EXAMPLE.rate:.0%} "
        f"from layer {EXAMPLE.layer} on gives {shares.min():.0f}% to {shares.max():.0f}%, over this page’s "
        f"conventions and scopes, t = {TEXT[0]:.0f} to {TEXT[-1]:.0f}, N = {NEW[0]:.0f} to {NEW[-1]:.0f}. "
        "More text leaves less to save."
    )


def _bytes(shape: ModelShape, load: Load, case: Case | None) -> Iterator[str]:
    visual, layers = shape.vision.patches, shape.text.layers
    text, kept = load.prompt - visual, round((1 - LEAN.rate) * visual)
    full, held = layers * load.prompt, LEAN.layer * load.prompt + (layers - LEAN.layer) * (text + kept)
    token, weights = shape.text.kv_width * _size(case), costs.weight_bytes(shape, _size(case))
    reads = [
        f"{(weights + batch * held * token) / (weights + batch * full * token):.0%} at batch {batch}"
        for batch in (case.ends if case else ENDS)
    ]
    yield (
        f"Dropping {LEAN.rate:.0%} of them from layer {LEAN.layer} on leaves {text} text tokens and "
        f"{LEAN.layer} full layers: {held / full:.0%} of the cache. With the weights, a step still reads "
        f"{' and '.join(reads)}. And what is selected anew at each step must be kept: only dropping at "
        "prefill, or evicting, frees memory."
    )
    pairs = case.leanest if case else None
    if not pairs:
        return
    mine, theirs = pairs[top := max(pairs)]
    peak = (
        f" and takes {mine.peak_bytes / theirs.peak_bytes:.0%} of the memory"
        if mine.peak_bytes and theirs.peak_bytes
        else ""
    )
    if theirs.kv_bytes:
        held_here = f"{mine.kv_bytes / theirs.kv_bytes:.0%} of the cache’s bytes"
        yield f"At batch {top}, {mine.label} holds {held_here}{peak}."


def _size(case: Case | None) -> int:
    """Bytes per number; those of bfloat16 without measurements."""
    return case.bench.bytes_per_number if case else 2
