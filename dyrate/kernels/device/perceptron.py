"""A small perceptron in Triton: a program takes a few rows all the way."""
# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor

from dyrate.kernels.arguments import Layers


def run(x: Tensor, layers: Layers, log_offset: float | None) -> Tensor:
    """Do what `perceptron` does, x [batch, tokens, groups, inputs]; no logarithm if `log_offset` is None."""
    batch, tokens, groups, inputs = x.shape
    hidden, outputs = len(layers.hidden), len(layers.out)
    out = x.new_empty(batch, tokens, outputs)
    rows = batch * tokens
    block = 16 if rows < 4096 else 32  # few rows: more programs, so that they are under way together
    _perceptron[(triton.cdiv(rows, block),)](
        x, layers.mean, layers.std, layers.hidden.contiguous(), layers.hidden_bias, layers.out.contiguous(),
        layers.out_bias, out, rows, tokens, *x.stride(), log_offset or 0.0,
        groups=groups, inputs=inputs, hidden=hidden, outputs=outputs,
        padded_inputs=_padded(inputs), padded_hidden=_padded(hidden), padded_outputs=_padded(outputs),
        log=log_offset is not None, block=block, num_warps=4,
    )  # fmt: skip
    return out


def _padded(width: int) -> int:
    return max(16, triton.next_power_of_2(width))  # the least that a product takes


@triton.jit
def _perceptron(
    x, mean, std, hidden_weight, hidden_bias, out_weight, out_bias, out, rows, tokens,
    row_stride, token_stride, group_stride, input_stride, log_offset,
    groups: tl.constexpr, inputs: tl.constexpr, hidden: tl.constexpr, outputs: tl.constexpr,
    padded_inputs: tl.constexpr, padded_hidden: tl.constexpr, padded_outputs: tl.constexpr,
    log: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * block + tl.arange(0, block)
    i, h, o = tl.arange(0, padded_inputs), tl.arange(0, padded_hidden), tl.arange(0, padded_outputs)
    inside = (row < rows)[:, None] & (i < inputs)[None, :]
    start = (row // tokens).to(tl.int64) * row_stride + (row % tokens).to(tl.int64) * token_stride
    at = x + start[:, None] + i[None, :] * input_stride
    value = tl.zeros([block, padded_inputs], dtype=tl.float32)
    for group in range(groups):
        value += tl.load(at + group * group_stride, mask=inside, other=0.0)
    value = value / groups
    if log:
        value = tl.log(value + log_offset)
    value = value - tl.load(mean + i, mask=i < inputs, other=0.0)[None, :]
    value = value / tl.load(std + i, mask=i < inputs, other=1.0)[None, :]
    value = tl.where(inside, value, 0.0)

    weight = tl.load(
        hidden_weight + h[None, :] * inputs + i[:, None],
        mask=(h < hidden)[None, :] & (i < inputs)[:, None], other=0.0,
    )  # fmt: skip
    units = tl.dot(value, weight, input_precision="ieee")
    units += tl.load(hidden_bias + h, mask=h < hidden, other=0.0)[None, :]
    units = 0.5 * units * (1.0 + tl.erf(units * 0.7071067811865476))

    weight = tl.load(
        out_weight + o[None, :] * hidden + h[:, None],
        mask=(o < outputs)[None, :] & (h < hidden)[:, None], other=0.0,
    )  # fmt: skip
    found = tl.dot(units, weight, input_precision="ieee")
    found += tl.load(out_bias + o, mask=o < outputs, other=0.0)[None, :]
    place = out + row[:, None].to(tl.int64) * outputs + o[None, :]
    tl.store(place, found, mask=(row < rows)[:, None] & (o < outputs)[None, :])
