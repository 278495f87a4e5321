"""A small perceptron and what comes before it: an average, a logarithm, the training data's mean and std."""

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from dyrate.kernels.arguments import Layers

LOG_OFFSET = 1e-5
"""Added before the logarithm: attention may be 0."""

_MOST = 8192
"""Numbers of a matrix that the kernel can hold at once."""


def perceptron(x: Tensor, layers: Layers, *, log: bool = False) -> Tensor:
    """Return FloatTensor [..., outputs] of the mean over groups of x [..., groups, inputs], float32.

    `log`: of log(mean + 1e-5). The hidden units are GELU's. Without gradients, two axes before the groups on
    a GPU are one kernel.
    """
    fits = max(layers.hidden.numel(), layers.out.numel()) <= _MOST
    if x.is_cuda and x.dim() == 4 and x.numel() and fits and not torch.is_grad_enabled():
        from dyrate.kernels.device.perceptron import run

        # A kernel runs on the current device, wherever its tensors are.
        with torch.cuda.device(x.device):
            return run(x, layers, LOG_OFFSET if log else None)
    x = x.squeeze(-2) if x.shape[-2] == 1 else x.mean(dim=-2)
    if log:
        x = (x + LOG_OFFSET).log()
    x = (x - layers.mean) / layers.std
    return linear(gelu(linear(x, layers.hidden, layers.hidden_bias)), layers.out, layers.out_bias)
