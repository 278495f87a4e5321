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


def attention_weights(query: Tensor, keys: Tensor, read: Tensor, scale: float) -> Tensor:
    """Return the attention of query [batch, heads, D] on each slot of keys [batch, kv_heads, slots, D],
    FloatTensor [batch, heads, slots]; 0 for slots not in `read` (BoolTensor [batch, slots]).
    """
    batch, heads, width = query.shape
    kv_heads, slots = keys.shape[1:3]
    # The heads that share keys become rows of one product, which sums in float32, so that keys are neither
    # repeated nor widened.
    grouped = query.reshape(batch * kv_heads, heads // kv_heads, width)
    turned = keys.flatten(0, 1).transpose(1, 2)
    if keys.is_cuda and keys.dtype != torch.float32:
        logits = torch.bmm(grouped, turned, out_dtype=torch.float32)
    else:
        logits = torch.bmm(grouped.float(), turned.float())
    logits = logits.view(batch, heads, slots).mul_(scale)
    # Slots that are not read may hold NaN.
    return logits.masked_fill_(~read[:, None], float("-inf")).softmax(dim=-1)


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

    weights = attention_weights(query, keys, read, scale)
    # Of values that are not read NaN must go as well, which a weight of 0 would not undo.
    grouped = weights.view(batch, kv_heads, heads // kv_heads, slots)
    output = grouped @ values.float().masked_fill(~read[:, None, :, None], 0)
    output = output.reshape(batch, heads, width).to(query.dtype)
    if not statistics:
        return Attended(output, None, None)
    class_mass = weights @ torch.stack(classes, dim=-1).float()
    return Attended(output, class_mass, weights[..., :capacity] * visual[:, None, :capacity])
