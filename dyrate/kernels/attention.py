"""Attention of one query per row over a ragged KV cache, and what that query looks at.

A layer's cache is keys and values [batch, kv_heads, slots, D]. A row's visual tokens lie in slots 0..V-1,
where V is the layer's capacity for them; its text lies from slot `text_start` on without gaps: system,
instruction, generated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate.kernels.arguments import Reading


@dataclass(frozen=True, eq=False)
class Attended:
    """What one query of each row makes of what it reads."""

    output: Tensor
    """Tensor [batch, heads, D], in the query's dtype."""
    class_mass: Tensor | None
    """FloatTensor [batch, heads, 4]: attention mass on sys, img, ins, res; sums to 1."""
    head_scores: Tensor | None
    """FloatTensor [batch, heads, V]: attention on each visual slot, 0 where it is not read."""


def decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, reading: Reading, scale: float, statistics: bool
) -> Attended:
    """Attend with query [batch, heads, D] to what `reading` says of keys, values [batch, kv_heads, slots, D].

    `heads` is a multiple of `kv_heads`. Sums are in float32. Without `statistics` only the output is
    computed.
    """
    if query.is_cuda:
        from dyrate.kernels.device.attention import attend

        return Attended(*attend(query, keys, values, reading, scale, statistics))
    # With masks over all slots.
    batch, heads, width = query.shape
    kv_heads, slots = keys.shape[1:3]
    capacity, device = reading.chosen.shape[1], query.device
    listed = torch.arange(capacity, device=device) < reading.count[:, None]
    # What is not listed goes to a spare column: entries beyond `count` may hold anything.
    visual = torch.zeros(batch, slots + 1, dtype=torch.bool, device=device)
    visual.scatter_(1, torch.where(listed, reading.chosen, slots).long(), value=True)
    visual = visual[:, :slots]
    word = (torch.arange(slots, device=device) - reading.text_start).expand(batch, -1)
    system, prompt = reading.system[:, None], reading.text[:, None]
    classes = [
        (word >= 0) & (word < system),
        visual,
        (word >= system) & (word >= 0) & (word < prompt),
        (word >= prompt) & (word < prompt + reading.generated),
    ]
    read = torch.stack(classes).any(dim=0)

    # The heads that share keys become rows of one product. Slots that are not read may hold NaN, which a
    # weight of 0 would not undo.
    grouped = query.float().reshape(batch, kv_heads, heads // kv_heads, width)
    logits = grouped @ keys.float().transpose(-1, -2) * scale
    weights = logits.masked_fill(~read[:, None, None], float("-inf")).softmax(dim=-1)
    output = weights @ values.float().masked_fill(~read[:, None, :, None], 0)
    output = output.reshape(batch, heads, width).to(query.dtype)
    if not statistics:
        return Attended(output, None, None)
    weights = weights.reshape(batch, heads, slots)
    class_mass = weights @ torch.stack(classes, dim=-1).float()
    return Attended(output, class_mass, weights[..., :capacity] * visual[:, None, :capacity])
