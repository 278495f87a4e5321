"""Towers whose patches attend within windows, or within their image: all windows of one length in one call.

By SDPA transformers calls the device for each window of each image: tens of thousands of times for a batch.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "dyrate_windows_like_flash"
"""A tower with "flash" in the name of its attention asks once for all windows."""
_AT_ONCE = 16384
"""Windows of one call: CUDA's grids have 65,535 places in that direction."""
_places: Any = WeakIdKeyDictionary()
"""By the ends of windows that a tower has made for all its layers, what `places` says of them."""


def has_windows(tower: nn.Module) -> bool:
    """Say whether a tower's attention is told where windows end."""
    config = getattr(tower, "config", None)
    return config is not None and any(
        "cu_seqlens" in inspect.signature(type(part).forward).parameters
        and getattr(part, "config", None) is config
        for part in tower.modules()
        if part is not tower
    )


@contextmanager
def in_one_call(tower: nn.Module) -> Iterator[None]:
    """Let a tower that `has_windows` attend so within the block, if by SDPA it would for each by itself."""
    config: Any = tower.config
    if config._attn_implementation != "sdpa":
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within windows, all tensors [1, heads, patches, D]; return [1, patches, heads, D].

    `cu_seq_lens_q`: IntTensor [windows + 1], where windows end, from 0 to the number of patches.
    """
    if cu_seq_lens_q not in _places:
        _places[cu_seq_lens_q] = places(cu_seq_lens_q)
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for place in _places[cu_seq_lens_q]:
        queries, keys, values = (states[place].transpose(1, 2) for states in (query, key, value))
        out[place] = scaled_dot_product_attention(queries, keys, values, scale=scaling).transpose(1, 2)
    return out[None], None


def places(ends: Tensor) -> list[Tensor]:
    """Return the patches of all windows of one length, LongTensor [windows, patches], for each length; of
    very many windows in several.
    """
    lengths = ends.diff().tolist()
    starts = ends[:-1].long()
    found: list[Tensor] = []
    for length in sorted(set(lengths) - {0}):
        of_length = torch.tensor([one == length for one in lengths], device=ends.device)
        patches = starts[of_length][:, None] + torch.arange(length, device=ends.device)
        found += torch.split(patches, _AT_ONCE)
    return found


ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
