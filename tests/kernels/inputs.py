"""Random caches and what steps read of them; random perceptrons."""

import torch
from torch import Tensor

from dyrate.kernels.arguments import Layers, Reading

GAP = 3  # slots between visual tokens and text that hold neither


def random_reading(
    capacity: int, counts: list[int], system: list[int], text: list[int], generated: int, seed: int = 0
) -> Reading:
    """Lists in random order; what follows `counts` entries would be out of bounds."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.full((len(counts), capacity), 10**6, dtype=torch.int32)
    for row, count in enumerate(counts):
        chosen[row, :count] = torch.randperm(capacity, generator=generator)[:count].int()
    as_int = {name: torch.tensor(n, dtype=torch.int32) for name, n in (("s", system), ("t", text))}
    return Reading(
        chosen=chosen,
        count=torch.tensor(counts, dtype=torch.int32),
        text_start=capacity + GAP,
        system=as_int["s"],
        text=as_int["t"],
        generated=torch.tensor([generated], dtype=torch.int32),
    )


def random_states(
    reading: Reading, heads: int, kv_heads: int, width: int, spare: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """query [batch, heads, width], keys and values [batch, kv_heads, slots, width]; what no step may read is
    NaN, save for `spare` slots of generated tokens to come.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, capacity = reading.chosen.shape
    ends = reading.text_start + reading.text + reading.generated + spare
    slots = int(ends.max())
    query = torch.randn(batch, heads, width, generator=generator)
    keys, values = (torch.randn(batch, kv_heads, slots, width, generator=generator) for _ in range(2))
    for row in range(batch):
        for states in (keys, values):
            states[row, :, capacity : reading.text_start] = float("nan")
            states[row, :, int(ends[row]) :] = float("nan")
    return query, keys, values


def random_layers(inputs: int, hidden: int, outputs: int, seed: int = 0) -> Layers:
    """A perceptron whose hidden units are neither all on nor all off."""
    generator = torch.Generator().manual_seed(seed)
    hidden_weight = torch.randn(hidden, inputs, generator=generator) / inputs**0.5
    out_weight = torch.randn(outputs, hidden, generator=generator) / hidden**0.5
    return Layers(
        mean=torch.rand(inputs, generator=generator),
        std=torch.rand(inputs, generator=generator) + 0.5,
        hidden=hidden_weight,
        hidden_bias=torch.randn(hidden, generator=generator),
        out=out_weight,
        out_bias=torch.randn(outputs, generator=generator),
    )
