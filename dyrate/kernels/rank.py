"""The best of each row."""

import torch
from torch import Tensor

from dyrate.finite import NotFiniteError


def top(scores: Tensor, counts: Tensor, among: Tensor | None = None) -> Tensor:
    """BoolTensor [batch, V]: the `counts` [batch] highest of `scores` (FloatTensor [batch, V]) per row; the
    lower index wins a tie.

    `among` (BoolTensor [batch, V]): the entries that may be chosen, None for all. Those of -inf never are.
    NaN has no rank: a `NotFiniteError` on a CPU; on a GPU, which nobody waits for here, it is never chosen.
    """
    if scores.is_cuda and scores.numel():
        from dyrate.kernels.device.rank import best

        # A kernel runs on the current device, wherever its tensors are.
        with torch.cuda.device(scores.device):
            return best(scores, counts, among)
    if among is not None:
        scores = scores.masked_fill(~among, float("-inf"))
    if (unranked := scores.isnan().any(dim=1)).any():
        raise NotFiniteError("scores", int(unranked.int().argmax()))
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order))
    return (ranks < counts[:, None]) & (scores > float("-inf"))
