"""From a prompt's keys and values to the slots where decode steps read them."""

from torch import Tensor


def store(states: Tensor, columns: Tensor, memory: Tensor, first: int) -> None:
    """Copy tokens `columns` (LongTensor [batch, n]) of states [batch, kv_heads, tokens, D] to the slots of
    memory [batch, kv_heads, slots, D] from `first` on.
    """
    if not columns.numel():
        return
    if not states.is_cuda:
        store_reference(states, columns, memory, first)
        return
    from dyrate.kernels.device.store import copy_tokens

    copy_tokens(states, columns, memory, first)


def store_reference(states: Tensor, columns: Tensor, memory: Tensor, first: int) -> None:
    """Do the same with plain tensor operations."""
    index = columns[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    memory[:, :, first : first + columns.shape[1]] = states.gather(2, index)
