"""A small perceptron and what comes before it: an average, a logarithm, the training data's mean and std."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

LOG_OFFSET = 1e-5
"""Added before the logarithm: attention may be 0."""

_MOST = 8192
"""Numbers of a matrix that the kernel can hold at once."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The numbers of a perceptron of one hidden layer, all float32."""

    mean: Tensor
    """[inputs], subtracted from them."""
    std: Tensor
    """[inputs], which they are divided by then."""
    hidden: Tensor
    """[hidden, inputs]"""
    hidden_bias: Tensor
    """[hidden]"""
    out: Tensor
    """[outputs, hidden]"""
    out_bias: Tensor
    """[outputs]"""


def perceptron(x: Tensor, layers: Layers, *, log: bool = False) -> Tensor:
    """Return FloatTensor [..., outputs] of the mean over groups of x [..., groups, inputs], float32.

    `log`: of log(mean + 1e-5). The hidden units are GELU's. Without gradients, two axes before the groups on
    a GPU are one kernel.
    """
    fits = max(layers.hidden.numel(), layers.out.numel()) <= _MOST
    fused = x.is_cuda and x.dim() == 4 and fits and not torch.is_grad_enabled()
    if not fused or not x.numel():
        return perceptron_reference(x, layers, log=log)
    from dyrate.kernels.device.perceptron import run

    return run(x, layers, LOG_OFFSET if log else None)


def perceptron_reference(x: Tensor, layers: Layers, *, log: bool = False) -> Tensor:
    """Do the same with plain tensor operations."""
    x = x.squeeze(-2) if x.shape[-2] == 1 else x.mean(dim=-2)
    if log:
        x = (x + LOG_OFFSET).log()
    x = (x - layers.mean) / layers.std
    return linear(gelu(linear(x, layers.hidden, layers.hidden_bias)), layers.out, layers.out_bias)
