"""From which visual tokens a step reads to the list of slots where they lie."""

import torch
from torch import Tensor


def compact(keep: Tensor, visual: Tensor, chosen: Tensor, count: Tensor) -> None:
    """Write into `chosen` the slots whose token is in `keep`, ascending, and into `count` how many there are.

    keep: BoolTensor [batch, V]; visual: LongTensor [batch, slots], the token of each slot, -1 for none;
    chosen: int32 [batch, slots], what follows the first `count` means nothing; count: int32 [batch].
    """
    if not visual.shape[1] or not keep.shape[1]:
        count.zero_()
    elif keep.is_cuda:
        from dyrate.kernels.device.compact import list_slots

        list_slots(keep, visual, chosen, count)
    else:
        mask = keep.gather(1, visual.clamp_min(0)) & (visual >= 0)
        chosen.copy_(mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True))
        count.copy_(mask.sum(dim=1))
