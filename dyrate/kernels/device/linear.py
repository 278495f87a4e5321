"""A fused linear layer for few rows in Triton: the weight is read once, everything else hides behind it.

Two kernels. For one row, products and sums of plain numbers: a program takes a few rows of the weight.
For more, the tensor cores: there the plain arithmetic would take longer than reading the weight. In float32
both take exact products.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005 (Triton adds tuples, but does not unpack them)

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dyrate.kernels.device.hopper import overlapping, wait

_NARROW = 8192
"""Up to so many outputs the programs must be small for there to be enough of them."""
_LEAST = 8
"""Rows of x in the narrowest matrix that the tensor cores take; more are cut otherwise."""


@dataclass(frozen=True)
class LinearTuning:
    """How the work is cut."""

    dots: bool
    """Whether the tensor cores do it."""
    outputs: int
    """Rows of the weight of a program (with a gate: as many of the gate and of up), a power of two, with
    `dots` 16 or more."""
    depth: int
    """Columns that a program reads at a time, a power of two."""
    warps: int
    """Warps of a program."""
    stages: int
    """Depth of the pipeline of loads."""


def tuning(rows: int, features: int, d: int, gated: bool, dtype: torch.dtype) -> LinearTuning:
    """Return how to cut the product of `rows` rows [rows, d] to `features`: what was fastest on an H200."""
    wide = features > _NARROW
    if dtype == torch.float32:
        if rows <= 4:
            return LinearTuning(dots=False, outputs=2, depth=1024, warps=4, stages=1)
        return LinearTuning(dots=True, outputs=16, depth=64, warps=4, stages=1)
    if rows == 1:
        outputs, depth, warps = (1, 256, 1) if gated else (2, 1024, 1) if features <= d else (2, 512, 2)
        return LinearTuning(dots=False, outputs=outputs, depth=depth, warps=warps, stages=1)
    if rows > _LEAST:
        return LinearTuning(dots=True, outputs=64, depth=128, warps=4, stages=4 if gated else 5)
    if wide:
        depth, stages = (128, 4) if gated else (256, 3)
        return LinearTuning(dots=True, outputs=32, depth=depth, warps=2, stages=stages)
    return LinearTuning(dots=True, outputs=16, depth=256, warps=1, stages=4)


def fused_linear(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    gated: bool = False,
    cut: LinearTuning | None = None,
    parts: int = 1,
) -> Tensor:
    """Do what `linear` does, in one kernel; with several `parts`, return FloatTensor [parts, rows, features],
    whose sum is the product alone.
    """
    rows, d = x.shape
    features = len(weight) // 2 if gated else len(weight)
    if weight.stride(1) != 1:
        raise ValueError("the rows of a weight must be without gaps")
    cut = cut or tuning(rows, features, d, gated, x.dtype)
    if parts > 1 and (gated or not cut.dots or any(extra is not None for extra in (bias, norm, residual))):
        raise ValueError(f"{parts} parts: are of the product alone, of more than one row")
    x = x.contiguous()
    residual = None if residual is None else residual.contiguous()
    out = (
        x.new_empty(rows, features) if parts == 1 else x.new_empty(parts, rows, features, dtype=torch.float32)
    )
    arguments = (x, weight, norm, bias, residual, out, eps, features, d, weight.stride(0))
    sizes = {
        "rows": rows, "gated": gated, "outputs": cut.outputs, "depth": cut.depth, "stages": cut.stages,
        "num_warps": cut.warps, **overlapping(x),
    }  # fmt: skip
    grid = (triton.cdiv(features, cut.outputs), parts)
    if cut.dots:
        _by_dots[grid](*arguments, padded=max(_LEAST, triton.next_power_of_2(rows)), parts=parts, **sizes)
    else:
        _by_sums[grid](*arguments, **sizes)
    return out


@triton.jit
def _by_sums(
    x, weight, norm, bias, residual, out, eps, features, d, weight_stride,
    rows: tl.constexpr, gated: tl.constexpr, outputs: tl.constexpr, depth: tl.constexpr, stages: tl.constexpr,
    early: tl.constexpr,
):  # fmt: skip
    """Sum products column by column of a tile; the columns are added up after the loop, once.

    The norm's scale is the same for all columns of a row, so that it can wait for the end.
    """
    f = tl.program_id(0) * outputs + tl.arange(0, outputs)
    inside = f < features
    lines = weight + f.to(tl.int64)[:, None] * weight_stride
    up_lines = lines + features.to(tl.int64) * weight_stride
    sums = ()
    ups = ()
    squares = ()
    for _ in tl.static_range(rows):
        sums = sums + (tl.zeros([outputs, depth], dtype=tl.float32),)
        if gated:
            ups = ups + (tl.zeros([outputs, depth], dtype=tl.float32),)
        if norm is not None:
            squares = squares + (tl.zeros([1, depth], dtype=tl.float32),)
    next_w = _tile(lines, inside, 0, d, depth)
    next_up = _tile(up_lines, inside, 0, d, depth) if gated else next_w
    wait(early)
    for first in tl.range(0, d, depth, num_stages=stages):
        column = first + tl.arange(0, depth)[None, :]
        w = next_w.to(tl.float32)
        next_w = _tile(lines, inside, first + depth, d, depth)
        if gated:
            up = next_up.to(tl.float32)
            next_up = _tile(up_lines, inside, first + depth, d, depth)
        if norm is not None:
            scale = tl.load(norm + column, mask=column < d, other=0.0).to(tl.float32)
        new_sums = ()
        new_ups = ()
        new_squares = ()
        for row in tl.static_range(rows):
            wide = tl.load(x + row * d + column, mask=column < d, other=0.0).to(tl.float32)
            if norm is not None:
                new_squares = new_squares + (squares[row] + wide * wide,)
                wide = wide * scale
            new_sums = new_sums + (sums[row] + w * wide,)
            if gated:
                new_ups = new_ups + (ups[row] + up * wide,)
        sums = new_sums
        ups = new_ups
        squares = new_squares

    for row in tl.static_range(rows):
        y = tl.sum(sums[row], axis=1)
        if norm is not None:
            factor = tl.rsqrt(tl.sum(squares[row]) / d + eps)
            y = y * factor
        if bias is not None:
            y = y + tl.load(bias + f, mask=inside, other=0.0).to(tl.float32)
        if gated:
            z = tl.sum(ups[row], axis=1)
            if norm is not None:
                z = z * factor
            if bias is not None:
                z = z + tl.load(bias + features + f, mask=inside, other=0.0).to(tl.float32)
            y = y * tl.sigmoid(y) * z
        if residual is not None:
            y = y + tl.load(residual + row * features + f, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * features + f, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _tile(lines, inside, first, d, depth: tl.constexpr):
    """Load what is read once and should not push x, which every program reads, out of the caches."""
    column = first + tl.arange(0, depth)[None, :]
    there = inside[:, None] & (column < d)
    return tl.load(lines + column, mask=there, other=0.0, eviction_policy="evict_first")


@triton.jit
def _by_dots(
    x, weight, norm, bias, residual, out, eps, features, d, weight_stride,
    rows: tl.constexpr, padded: tl.constexpr, gated: tl.constexpr, outputs: tl.constexpr, depth: tl.constexpr,
    stages: tl.constexpr, parts: tl.constexpr, early: tl.constexpr,
):  # fmt: skip
    """Multiply tiles: the weight [outputs, depth] by x [depth, padded], of which `rows` columns are real.

    Each of `parts` programs sums over a share of the columns, for itself.
    """
    f = tl.program_id(0) * outputs + tl.arange(0, outputs)
    inside = f < features
    lines = weight + f.to(tl.int64)[:, None] * weight_stride
    up_lines = lines + features.to(tl.int64) * weight_stride
    wait(early)
    row = tl.arange(0, padded)
    sums = tl.zeros([outputs, padded], dtype=tl.float32)
    ups = tl.zeros([outputs, padded], dtype=tl.float32)
    squares = tl.zeros([padded], dtype=tl.float32)
    share = tl.cdiv(tl.cdiv(d, parts), depth) * depth
    start = tl.program_id(1) * share
    end = tl.minimum(d, start + share)
    for first in tl.range(start, end, depth, num_stages=stages):
        column = first + tl.arange(0, depth)
        there = inside[:, None] & (column < end)[None, :]
        w = tl.load(lines + column[None, :], mask=there, other=0.0, eviction_policy="evict_first")
        real = (row < rows)[:, None] & (column < end)[None, :]
        tile = tl.load(x + row[:, None] * d + column[None, :], mask=real, other=0.0)
        if norm is not None:
            wide = tile.to(tl.float32)
            squares += tl.sum(wide * wide, axis=1)
            scale = tl.load(norm + column, mask=column < end, other=0.0).to(tl.float32)
            tile = (wide * scale[None, :]).to(w.dtype)
        tile = tl.trans(tile)
        sums = tl.dot(w, tile, sums, input_precision="ieee")
        if gated:
            up = tl.load(up_lines + column[None, :], mask=there, other=0.0, eviction_policy="evict_first")
            ups = tl.dot(up, tile, ups, input_precision="ieee")

    if norm is not None:
        factor = tl.rsqrt(squares / d + eps)[None, :]
        sums = sums * factor
        ups = ups * factor
    if bias is not None:
        sums += tl.load(bias + f, mask=inside, other=0.0).to(tl.float32)[:, None]
        if gated:
            ups += tl.load(bias + features + f, mask=inside, other=0.0).to(tl.float32)[:, None]
    if gated:
        sums = sums * tl.sigmoid(sums) * ups
    place = (tl.program_id(1) * rows + row[None, :]) * features + f[:, None]
    real = inside[:, None] & (row < rows)[None, :]
    if residual is not None:
        sums += tl.load(residual + place, mask=real, other=0.0).to(tl.float32)
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=real)
