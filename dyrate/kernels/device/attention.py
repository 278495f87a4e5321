"""Decode attention in Triton: heads that share keys read them once; a second kernel puts parts together."""
# mypy: ignore-errors

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyrate.kernels.arguments import Reading
from dyrate.kernels.device.hopper import overlapping, wait

LOG2_E = 1.4426950408889634
_LEAST = 16
"""Rows and columns of the smallest matrices that are multiplied."""


@dataclass(frozen=True)
class AttentionTuning:
    """How the work is cut."""

    block: int
    """Tokens that a program reads at a time, a power of two, 16 or more."""
    warps: int
    """Warps of a program."""
    stages: int
    """Depth of the pipeline of loads; 1 leaves hiding latency to the number of programs."""
    programs: int = 512
    """Programs that are enough: about four for each of an H200's 132 multiprocessors. Rows are split while
    there are fewer."""

    def splits(self, rows: int, tokens: int) -> int:
        """Return into how many programs each of `rows` (batch x kv_heads) of up to `tokens` tokens goes."""
        wanted = 1
        while rows * wanted * 2 <= self.programs and wanted * self.block < tokens:
            wanted *= 2
        return wanted


def tuning(rows: int, group: int) -> AttentionTuning:
    """Return how to cut the work of `rows` (batch x kv_heads), `group` heads to a row: what was fastest on an
    H200.
    """
    if rows <= 128:
        return AttentionTuning(block=32, warps=4, stages=2 if group == 1 else 3)
    if group == 1:
        return AttentionTuning(block=16, warps=1, stages=3)
    return AttentionTuning(block=64, warps=2, stages=2)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    reading: Reading,
    scale: float,
    statistics: bool,
    cut: AttentionTuning | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return output, class mass and head scores as `decode_attention` does; `splits` (a power of two)
    overrides what the cut makes of them.
    """
    batch, heads, width = query.shape
    kv_heads, slots = keys.shape[1:3]
    group = heads // kv_heads
    cut = cut or tuning(batch * kv_heads, group)
    capacity = reading.chosen.shape[1]
    if keys.stride() != values.stride() or keys.stride(3) != 1:
        raise ValueError("keys and values must lie alike in memory, each token's vector without gaps")
    splits = splits or cut.splits(batch * kv_heads, capacity + slots - reading.text_start)
    query, chosen = query.contiguous(), reading.chosen.contiguous()
    padded = max(_LEAST, triton.next_power_of_2(width))
    output = torch.empty_like(query)
    partial = logits = mass = scores = None
    if splits > 1 or statistics:
        partial = query.new_empty(batch * heads * splits, padded + 8, dtype=torch.float32)
    if statistics:
        logits = query.new_empty(batch, heads, capacity, dtype=torch.float32)
        mass = query.new_empty(batch, heads, 4, dtype=torch.float32)
        scores = torch.empty_like(logits)
    _attend[kv_heads, batch, splits](
        query, keys, values, chosen, reading.count, reading.system, reading.text, reading.generated, partial,
        logits, scale * LOG2_E, reading.text_start, capacity, *keys.stride()[:3], output,
        heads=heads, group=group, rows=max(_LEAST, triton.next_power_of_2(group)), width=width, padded=padded,
        block=cut.block, splits=splits, stages=cut.stages, statistics=statistics,
        num_warps=cut.warps, **overlapping(query),
    )  # fmt: skip
    if partial is not None:
        _combine[heads, batch](
            partial, chosen, reading.count, logits, output, mass, scores, capacity,
            heads=heads, width=width, padded=padded, splits=splits, statistics=statistics, num_warps=4,
            **overlapping(query),
        )  # fmt: skip
    return output, mass, scores


@triton.jit
def _attend(
    query, keys, values, chosen, count, system, text, generated, partial, logits,
    scale, text_start, capacity, row_stride, head_stride, slot_stride, output,
    heads: tl.constexpr, group: tl.constexpr, rows: tl.constexpr, width: tl.constexpr, padded: tl.constexpr,
    block: tl.constexpr, splits: tl.constexpr, stages: tl.constexpr, statistics: tl.constexpr,
    early: tl.constexpr,
):  # fmt: skip
    """Attend to one split of a row's tokens with all heads that share a key head, padded to `rows`.

    Weights are rounded to the values' dtype before they are multiplied, as flash attention rounds them.
    """
    wait(early)
    kv_head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    listed = tl.load(count + row)
    system_end = tl.load(system + row)
    prompt_end = tl.load(text + row)
    tokens = listed + prompt_end + tl.load(generated)
    share = tl.cdiv(tokens, splits)
    start = split * share
    end = tl.minimum(tokens, start + share)

    lanes = tl.arange(0, block)
    d = tl.arange(0, padded)
    head = tl.arange(0, rows)
    own = head < group
    line = row * heads + kv_head * group + head
    q = tl.load(
        query + line[:, None] * width + d[None, :], mask=own[:, None] & (d < width)[None, :], other=0.0
    )
    base = row.to(tl.int64) * row_stride + kv_head.to(tl.int64) * head_stride
    # Finite, because a split may have no token and -inf minus -inf is NaN.
    peak = tl.full([rows], -1e30, dtype=tl.float32)
    total = tl.zeros([rows], dtype=tl.float32)
    on_system = tl.zeros([rows], dtype=tl.float32)
    on_visual = tl.zeros([rows], dtype=tl.float32)
    on_instruction = tl.zeros([rows], dtype=tl.float32)
    on_generated = tl.zeros([rows], dtype=tl.float32)
    sums = tl.zeros([rows, padded], dtype=tl.float32)
    for first in tl.range(start, end, block, num_stages=stages):
        at = first + lanes
        valid = at < end
        visual = at < listed
        word = at - listed
        picked = tl.load(chosen + row * capacity + at, mask=valid & visual, other=0)
        slot = tl.where(visual, picked, text_start + word).to(tl.int64)
        where = base + slot[:, None] * slot_stride + d[None, :]
        inside = valid[:, None]
        if padded != width:
            inside = inside & (d < width)[None, :]
        key = tl.load(keys + where, mask=inside, other=0.0)
        value = tl.load(values + where, mask=inside, other=0.0)
        logit = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        logit = tl.where(valid[None, :], logit, -float("inf"))
        if statistics:
            to = logits + line[:, None] * capacity + at[None, :]
            tl.store(to, logit, mask=own[:, None] & (valid & visual)[None, :])
        new_peak = tl.maximum(peak, tl.max(logit, axis=1))
        decay = tl.exp2(peak - new_peak)
        weight = tl.exp2(logit - new_peak[:, None])
        if statistics:
            is_system = (word >= 0) & (word < system_end)
            is_instruction = (word >= 0) & (word >= system_end) & (word < prompt_end)
            is_generated = (word >= 0) & (word >= prompt_end)
            on_system = on_system * decay + _sum_where(is_system, weight)
            on_visual = on_visual * decay + _sum_where(visual, weight)
            on_instruction = on_instruction * decay + _sum_where(is_instruction, weight)
            on_generated = on_generated * decay + _sum_where(is_generated, weight)
        else:
            total = total * decay + tl.sum(weight, axis=1)
        added = tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        sums = sums * decay[:, None] + added
        peak = new_peak

    if partial is None:
        to = output + line[:, None] * width + d[None, :]
        mean = (sums / total[:, None]).to(output.dtype.element_ty)
        tl.store(to, mean, mask=own[:, None] & (d < width)[None, :])
    else:
        out = partial + (line * splits + split).to(tl.int64) * (padded + 8)
        tl.store(out[:, None] + d[None, :], sums, mask=own[:, None])
        tl.store(out + padded, peak, mask=own)
        if statistics:
            tl.store(out + padded + 1, on_system, mask=own)
            tl.store(out + padded + 2, on_visual, mask=own)
            tl.store(out + padded + 3, on_instruction, mask=own)
            tl.store(out + padded + 4, on_generated, mask=own)
        else:
            tl.store(out + padded + 1, total, mask=own)


@triton.jit
def _sum_where(mask, weight):
    return tl.sum(tl.where(mask[None, :], weight, 0.0), axis=1)


@triton.jit
def _store_scores(logits, chosen, scores, row, line, listed, capacity, top, whole, block: tl.constexpr):
    """Turn the logits of one row and head, in list order, into weights by slot."""
    lanes = tl.arange(0, block)
    for first in range(0, capacity, block):
        at = first + lanes
        tl.store(scores + line * capacity + at, tl.zeros([block], dtype=tl.float32), mask=at < capacity)
    # Other threads of the program have written the logits, and write to the same places next.
    tl.debug_barrier()
    for first in range(0, listed, block):
        at = first + lanes
        slot = tl.load(chosen + row * capacity + at, mask=at < listed, other=0)
        logit = tl.load(logits + line * capacity + at, mask=at < listed, other=0.0)
        tl.store(scores + line * capacity + slot, tl.exp2(logit - top) / whole, mask=at < listed)


@triton.jit
def _combine(
    partial, chosen, count, logits, output, mass, scores, capacity,
    heads: tl.constexpr, width: tl.constexpr, padded: tl.constexpr, splits: tl.constexpr,
    statistics: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    """Put the splits of one row and head together."""
    wait(early)
    head, row = tl.program_id(0), tl.program_id(1)
    line = row * heads + head
    d = tl.arange(0, padded)
    base = partial + (line * splits + tl.arange(0, splits)).to(tl.int64) * (padded + 8)
    peaks = tl.load(base + padded)
    top = tl.max(peaks, axis=0)
    decay = tl.exp2(peaks - top)
    summed = tl.sum(tl.load(base[:, None] + d[None, :]) * decay[:, None], axis=0)
    whole = tl.sum(tl.load(base + padded + 1) * decay, axis=0)
    if statistics:
        on_system = whole
        on_visual = tl.sum(tl.load(base + padded + 2) * decay, axis=0)
        on_instruction = tl.sum(tl.load(base + padded + 3) * decay, axis=0)
        on_generated = tl.sum(tl.load(base + padded + 4) * decay, axis=0)
        whole = on_system + on_visual + on_instruction + on_generated
        tl.store(mass + line * 4, on_system / whole)
        tl.store(mass + line * 4 + 1, on_visual / whole)
        tl.store(mass + line * 4 + 2, on_instruction / whole)
        tl.store(mass + line * 4 + 3, on_generated / whole)
        listed = tl.load(count + row)
        _store_scores(logits, chosen, scores, row, line, listed, capacity, top, whole, block=256)
    tl.store(output + line * width + d, (summed / whole).to(output.dtype.element_ty), mask=d < width)
