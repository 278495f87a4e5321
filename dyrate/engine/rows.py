"""Attention of a decode step on every slot of a layer, for methods that read whole rows, or read ahead."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate.attention_rows import Attention, WholeRows
from dyrate.engine.memory import Section
from dyrate.kernels.attention import attention_weights
from dyrate.tokens import TokenClass


@dataclass(frozen=True, eq=False)
class SlotRows(WholeRows):
    """Those over the slots of a section, at a step that sees some of its visual tokens."""

    weights: Tensor
    section: Section
    seen: Tensor
    """BoolTensor [batch, V]."""
    classes: Tensor
    """LongTensor [batch, slots]: `Section.classes` of these."""

    def by_class(self, weights: Tensor) -> Tensor:
        """Sum them."""
        start = self.section.visual_capacity
        text, classes = weights[..., start:], self.classes[:, None, start:]
        system, instruction, generated = (
            (text * (classes == kind)).sum(dim=-1)
            for kind in (TokenClass.SYS, TokenClass.INS, TokenClass.RES)
        )
        # Without a mask, as there are many of them: what is not seen has no weight.
        visual = weights[..., :start].sum(dim=-1)
        return torch.stack([system, visual, instruction, generated], dim=-1)

    @property
    def places(self) -> Tensor:
        """Text has slots behind all visual tokens, wherever it stands among them."""
        read, order = self.classes >= 0, self.section.order
        slots = order.shape[1]
        there = order.new_zeros(len(order), slots + 1)
        there.scatter_(1, torch.where(read, order, slots), 1)
        return (there.cumsum(dim=1) - 1).gather(1, order).masked_fill(~read, -1)

    @property
    def visual_slots(self) -> Tensor:
        """Those of the step's."""
        return self.section.slots_of(self.seen)


def attention_of(
    section: Section, layer: int, query: Tensor, scaling: float, seen: Tensor, *, whole: bool
) -> Attention:
    """Return what a layer's newest query [batch, heads, D], whose own key is in the cache, looks at where it
    sees `seen` (BoolTensor [batch, V]) of the visual tokens; `whole`: with its rows.

    One product over the layer's keys and a few operations on rows of float32, in shapes that stay: nothing
    waits for the device, and a graph can hold it.
    """
    classes = section.classes(seen)
    weights = attention_weights(query, section.keys[layer], classes >= 0, scaling)
    rows = SlotRows(weights, section, seen, classes)
    by_token = section.by_token(weights[..., : section.visual_capacity])
    return Attention(rows.by_class(weights), by_token, seen, whole=rows if whole else None)
