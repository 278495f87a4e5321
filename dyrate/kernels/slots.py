"""Slots of a layer's cache: filled with a prompt's keys and values, and listed for a step to read."""

import torch
from torch import Tensor


def store(
    states: tuple[Tensor, Tensor], columns: Tensor, visual: int, memory: tuple[Tensor, Tensor], first: int
) -> None:
    """Copy tokens `columns` (LongTensor [batch, n]) of keys and values [batch, kv_heads, tokens, D] to those
    of memory [batch, kv_heads, slots, D]: `visual` of them to the slots from 0 on, the rest to those from
    `first` on.
    """
    if columns.is_cuda:
        from dyrate.kernels.device.slots import copy_tokens

        copy_tokens(*states, columns, visual, *memory, first)
        return
    index = columns[:, None, :, None].expand(-1, states[0].shape[1], -1, states[0].shape[3])
    for given, kept in zip(states, memory, strict=True):
        found = given.gather(2, index)
        kept[:, :, :visual] = found[:, :, :visual]
        kept[:, :, first : first + columns.shape[1] - visual] = found[:, :, visual:]


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
