"""How many visual tokens a rate keeps, and which are the best ranked: rules that several methods share."""

import torch
from torch import Tensor


def rounded_share(visual_tokens: Tensor, share: float | Tensor) -> Tensor:
    """LongTensor [batch]: round(share V), halves to even; one `share` (float), or one per row (float64)."""
    return torch.round(visual_tokens.double() * share).long()


def kept_counts(visual_tokens: Tensor, rate: float | Tensor) -> Tensor:
    """LongTensor [batch]: round((1 - rate) V), halves to even; `rate` as `share` above."""
    return rounded_share(visual_tokens, 1 - rate)


def top(scores: Tensor, counts: Tensor) -> Tensor:
    """BoolTensor [batch, V]: the `counts` [batch] highest of `scores` [batch, V] per row; the lower index
    wins a tie.

    Entries of -inf are never chosen.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order))
    return (ranks < counts[:, None]) & (scores > float("-inf"))
