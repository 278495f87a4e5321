"""The best of each row."""

import torch
from torch import Tensor


def top(scores: Tensor, counts: Tensor) -> Tensor:
    """BoolTensor [batch, V]: the `counts` [batch] highest of `scores` [batch, V] per row; the lower index
    wins a tie.

    Entries of -inf are never chosen.
    """
    if not scores.is_cuda or not scores.numel():
        return top_reference(scores, counts)
    from dyrate.kernels.device.rank import best

    return best(scores, counts)


def top_reference(scores: Tensor, counts: Tensor) -> Tensor:
    """Do the same by sorting."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order))
    return (ranks < counts[:, None]) & (scores > float("-inf"))
