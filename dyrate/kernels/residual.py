"""The residual stream of a decode step: the blocks read it through a norm and add their products to it."""

import torch
from torch import Tensor

from dyrate.kernels.linear import FUSED_ROWS, linear, tiled
from dyrate.kernels.norm import add_and_norm, add_up

_HALVED = range(FUSED_ROWS + 1, 256)
"""With so many rows two products of half the depth, side by side, occupy a GPU better than one."""


class ResidualStream:
    """Hidden states [rows, d], which `add` may overwrite.

    A product may be left in halves, which the next norm adds up on its way.
    """

    def __init__(self, hidden: Tensor) -> None:
        self._sum = hidden
        self._parts: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """[rows, d]: what all have added up to."""
        if self._parts is not None:
            add_up(self._sum, self._parts)
            self._parts = None
        return self._sum

    def add(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        """Add x @ weight.T + bias: x [rows, n], weight [d, n], bias [d]."""
        residual = self.hidden
        if bias is None and _in_halves(x):
            self._parts = halves(x, weight)
        else:
            self._sum = linear(x, weight, bias=bias, residual=residual)

    def project(
        self, weight: Tensor, *, norm: Tensor, eps: float, bias: Tensor | None = None, gated: bool = False
    ) -> Tensor:
        """Return norm(hidden) @ weight.T + bias [rows, f], gated or not, as `linear` does."""
        if self._parts is None:
            return linear(self._sum, weight, bias=bias, norm=norm, eps=eps, gated=gated)
        normed = add_and_norm(self._sum, self._parts, norm, eps)
        self._parts = None
        return linear(normed, weight, bias=bias, gated=gated)


def halves(x: Tensor, weight: Tensor) -> Tensor:
    """FloatTensor [2, rows, d], whose sum is x @ weight.T: x [rows, n], weight [d, n], n even."""
    if tiled(x):
        from dyrate.kernels.device.linear import fused_linear

        return fused_linear(x, weight, parts=2)
    left = x.view(len(x), 2, -1).transpose(0, 1)
    right = weight.view(len(weight), 2, -1).permute(1, 2, 0)
    if x.dtype == torch.float32:
        return torch.bmm(left, right)
    return torch.bmm(left, right, out_dtype=torch.float32)


def _in_halves(x: Tensor) -> bool:
    # Vectors of 8 numbers must not lie across the cut.
    return x.is_cuda and len(x) in _HALVED and x.shape[1] % 16 == 0
