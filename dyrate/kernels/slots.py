"""Slots of a layer's cache: filled with a prompt's keys and values, and listed for a step to read."""

import torch
from torch import Tensor


def store(states: Tensor, columns: Tensor, memory: Tensor, first: int) -> None:
    """Copy tokens `columns` (LongTensor [batch, n]) of states [batch, kv_heads, tokens, D] to the slots of
    memory [batch, kv_heads, slots, D] from `first` on.
    """
    if states.is_cuda and columns.numel():
        from dyrate.kernels.device.slots import copy_tokens

        copy_tokens(states, columns, memory, first)
        return
    index = columns[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    memory[:, :, first : first + columns.shape[1]] = states.gather(2, index)


def compact(keep: Tensor, visual: Tensor, chosen: Tensor, count: Tensor) -> None:
    """Write into `chosen` the slots whose token is in `keep`, ascending, and into `count` how many there are.

    keep: BoolTensor [batch, V]; visual: LongTensor [batch, slots], the token of each slot, -1 for none;
    chosen: int32 [batch, slots], what follows the first `count` means nothing; count: int32 [batch].
    """
    if not visual.shape[1] or not keep.shape[1]:
        count.zero_()
    elif keep.is_cuda:
        from dyrate.kernels.device.slots import list_slots

        list_slots(keep, visual, chosen, count)
    else:
        mask = keep.gather(1, visual.clamp_min(0)) & (visual >= 0)
        chosen.copy_(mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True))
        count.copy_(mask.sum(dim=1))
