"""How many visual tokens a rate keeps, and which are the best ranked: rules that several methods share."""

import torch
from torch import Tensor

from dyrate.kernels.rank import top

__all__ = ["kept_counts", "rounded_share", "top"]


def rounded_share(visual_tokens: Tensor, share: float | Tensor) -> Tensor:
    """LongTensor [batch]: round(share V), halves to even; one `share` (float), or one per row (float64)."""
    return torch.round(visual_tokens.double() * share).long()


def kept_counts(visual_tokens: Tensor, rate: float | Tensor) -> Tensor:
    """LongTensor [batch]: round((1 - rate) V), halves to even; `rate` as `share` above."""
    return rounded_share(visual_tokens, 1 - rate)
