"""From a prompt's keys and values to the slots where decode steps read them."""

from torch import Tensor


def store(states: Tensor, columns: Tensor, memory: Tensor, first: int) -> None:
    """Copy tokens `columns` (LongTensor [batch, n]) of states [batch, kv_heads, tokens, D] to the slots of
    memory [batch, kv_heads, slots, D] from `first` on.
    """
    if states.is_cuda and columns.numel():
        from dyrate.kernels.device.store import copy_tokens

        copy_tokens(states, columns, memory, first)
        return
    index = columns[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    memory[:, :, first : first + columns.shape[1]] = states.gather(2, index)
