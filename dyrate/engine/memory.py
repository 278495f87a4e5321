"""Where keys and values lie during decode: preallocated slots, laid out as the attention kernel reads them.

Layers between two prune layers hold the same prompt tokens and make up a section. In each of its layers a row
has its visual tokens in slots 0, 1, ..., as many as it holds, and its text (system, instruction, generated)
from a slot on that is the same for all rows. Memory is only ever enlarged, so that captured graphs stay valid
from one prompt to the next.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dyrate.cache import ReducedCache
from dyrate.kernels.arguments import Reading
from dyrate.kernels.slots import compact, store
from dyrate.token_set import TokenSet
from dyrate.tokens import TokenClass, TokenLayout

_STEP = 16
"""Capacities are multiples of this many slots."""


class Section:
    """The layers from one prune layer up to the next: what they hold, and what a step reads of it."""

    def __init__(self, layers: range, bases: Tensor, count: Tensor) -> None:
        self.layers = layers
        self.visual_capacity = 0
        self.text_capacity = 0
        self.keys: dict[int, Tensor] = {}
        """By layer, [batch, kv_heads, slots, D]."""
        self.values: dict[int, Tensor] = {}
        self.reading: Reading
        self.visual: Tensor
        """LongTensor [batch, visual_capacity]: which visual token a slot holds, -1 for none."""
        self.held: Tensor
        """BoolTensor [batch, V]: the visual tokens not evicted."""
        self.seen: Tensor
        """BoolTensor [batch, V]: those that the step under way reads."""
        self.order: Tensor
        """LongTensor [batch, slots]: how many tokens of the row stand before the one in a slot, as long as
        none has left; where whole rows of attention are read.
        """
        self._slot_base, self._position_base = bases
        self._count = count
        self._tokens: TokenSet
        """What the layers hold of the prompt, until it is loaded."""
        self._columns: Tensor
        """LongTensor [batch, n]: its slots with visual tokens, as many as a row has at most, then with text.
        """
        self._whole = False

    def prepare(self, tokens: TokenSet, new_tokens: int, generated: Tensor) -> bool:
        """Make room for what the layers hold after the prompt; return whether it lies elsewhere than before.

        Only what storing needs, as the device may be waiting: `load` does the rest.
        """
        visual_tokens, text_tokens = tokens.most_visual, tokens.layout.most_text
        enlarged = self._reserve(visual_tokens, text_tokens + new_tokens, tokens, generated)
        enlarged |= self._whole != tokens.complete
        self._tokens, self._whole = tokens, tokens.complete
        visual = tokens.visual_index >= 0
        text = tokens.valid & ~visual
        self._columns = torch.cat([_first(visual)[:, :visual_tokens], _first(text)[:, :text_tokens]], dim=1)
        return enlarged

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Copy the prompt's keys and values [batch, kv_heads, prompt slots, D] of a layer."""
        if layer not in self.keys:
            shape = (*keys.shape[:2], self.visual_capacity + self.text_capacity, keys.shape[3])
            # Zeros: what is never read must not be NaN either, which a weight of 0 would not undo.
            self.keys[layer], self.values[layer] = keys.new_zeros(shape), values.new_zeros(shape)
        memory = self.keys[layer], self.values[layer]
        store((keys, values), self._columns, self._tokens.most_visual, memory, self.visual_capacity)

    def load(self, following: Tensor, *, ordered: bool) -> None:
        """Note which slots hold what, for the steps to come, and the position that comes after the prompt
        (LongTensor [batch]), unless the layers number their tokens by themselves; `ordered`: their order too.
        """
        tokens = self._tokens
        del self._tokens  # with the masks that it may have made
        layout, text = tokens.layout, tokens.valid & (tokens.visual_index < 0)
        classes = layout.classes.gather(1, tokens.slots.clamp_min(0))
        self.reading.system.copy_(((classes == TokenClass.SYS) & text).sum(dim=1))
        lengths = text.sum(dim=1)
        self.reading.text.copy_(lengths)
        self._slot_base.copy_(lengths + self.visual_capacity - 1)
        self._position_base.copy_((following if tokens.next_position is None else tokens.next_position) - 1)
        self.held.copy_(tokens.present)
        columns = self._columns[:, : tokens.most_visual]
        self.visual.fill_(-1)
        self.visual[:, : columns.shape[1]] = tokens.visual_index.gather(1, columns)
        if ordered:
            order = tokens.position_ids.gather(1, self._columns)
            of_visual, of_text = order.split([columns.shape[1], order.shape[1] - columns.shape[1]], dim=1)
            self.order[:, : columns.shape[1]] = of_visual
            word = torch.arange(self.text_capacity, device=order.device)
            later = self.order[:, self.visual_capacity :]
            later.copy_(tokens.visual_counts[:, None] + word)
            now = later[:, : of_text.shape[1]]
            now.copy_(torch.where(word[: of_text.shape[1]] < lengths[:, None], of_text, now))
        self.show(None)

    def show(self, keep: Tensor | None) -> None:
        """Let steps read only `keep` (BoolTensor [batch, V]) of the visual tokens held, None for all."""
        self.seen = self.held if keep is None else keep & self.held
        compact(self.seen, self.visual, self.reading.chosen, self.reading.count)

    def evict(self, keep: Tensor) -> None:
        """Let no step read other visual tokens than `keep` any more; memory is not given back."""
        self.held &= keep
        self.show(None)

    def by_token(self, by_slot: Tensor) -> Tensor:
        """Return attention [batch, heads, visual_capacity] by token [batch, heads, V], 0 if not held."""
        num_visual = self.seen.shape[1]
        if self._whole:
            return by_slot[..., :num_visual]
        spare = self._token_or_spare[:, None].expand_as(by_slot)
        found = by_slot.new_zeros(*by_slot.shape[:2], num_visual + 1)
        return found.scatter_(2, spare, by_slot)[..., :num_visual]

    def classes(self, seen: Tensor) -> Tensor:
        """LongTensor [batch, slots]: the class of what a step reads that sees `seen` (BoolTensor [batch, V])
        of the visual tokens, and all text up to now; `TokenClass.PADDING` for other slots.
        """
        sees = pad(seen, (0, 1)).gather(1, self._token_or_spare)
        of_visual = torch.full_like(self.visual, TokenClass.IMG).masked_fill_(~sees, TokenClass.PADDING)
        word = torch.arange(self.text_capacity, device=seen.device)
        system, prompt = self.reading.system[:, None], self.reading.text[:, None]
        of_text = word.new_full((len(seen), self.text_capacity), TokenClass.RES)
        of_text.masked_fill_(word < prompt, TokenClass.INS).masked_fill_(word < system, TokenClass.SYS)
        of_text.masked_fill_(word >= prompt + self.reading.generated, TokenClass.PADDING)
        return torch.cat([of_visual, of_text], dim=1)

    def slots_of(self, seen: Tensor) -> Tensor:
        """LongTensor [batch, V]: the slots of the visual tokens `seen` (BoolTensor [batch, V]), else -1."""
        found = self.visual.new_full((len(seen), seen.shape[1] + 1), -1)
        slots = torch.arange(self.visual_capacity, device=seen.device).expand_as(self.visual)
        return found.scatter_(1, self._token_or_spare, slots)[:, :-1].masked_fill(~seen, -1)

    @property
    def _token_or_spare(self) -> Tensor:
        """LongTensor [batch, visual_capacity]: the visual token of each slot, V for none."""
        return torch.where(self.visual < 0, self.seen.shape[1], self.visual)

    def _reserve(self, visual_tokens: int, text_tokens: int, tokens: TokenSet, generated: Tensor) -> bool:
        visual, text = (-(-count // _STEP) * _STEP for count in (visual_tokens, text_tokens))
        fits = self.keys and self.held.shape == tokens.present.shape
        if fits and visual <= self.visual_capacity and text <= self.text_capacity:
            return False
        self.keys, self.values = {}, {}
        self.visual_capacity = max(self.visual_capacity, visual)
        self.text_capacity = max(self.text_capacity, text)
        self.visual = tokens.slots.new_full((len(tokens.slots), self.visual_capacity), -1)
        slots = self.visual_capacity + self.text_capacity
        self.order = tokens.slots.new_zeros(len(tokens.slots), slots)
        self.reading = Reading(
            chosen=torch.zeros_like(self.visual, dtype=torch.int32),
            count=self._count,
            text_start=self.visual_capacity,
            system=torch.zeros_like(self._count),
            text=torch.zeros_like(self._count),
            generated=generated,
        )
        self.held = tokens.present.clone()
        return True


def _text_of(tokens: TokenSet) -> TokenSet:
    """Return a set without its visual tokens, in the same slots."""
    return replace(tokens.without(torch.zeros_like(tokens.present)), most_visual=0)


def _first(mask: Tensor) -> Tensor:
    """LongTensor [batch, n]: where each row of `mask` [batch, n] is true, ascending, then the others."""
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)


class Memory:
    """The sections of a batch, kept from one prompt to the next as long as the batch has as many rows."""

    def __init__(self, batch: int, boundaries: Sequence[int], num_layers: int, device: torch.device) -> None:
        self.batch = batch
        self.boundaries = tuple(boundaries)
        sections = len(boundaries)
        self.bases = torch.zeros(2, sections, batch, dtype=torch.long, device=device)
        """LongTensor [2, sections, batch]: generated token t, from 1 on, lies in slot bases[0] + t and has
        position bases[1] + t.
        """
        self.counts = torch.zeros(sections, batch, dtype=torch.int32, device=device)
        """IntTensor (int32) [sections, batch]: visual tokens that a step reads."""
        ends = [*boundaries[1:], num_layers]
        self.sections = [
            Section(range(*ends_of), self.bases[:, number], self.counts[number])
            for number, ends_of in enumerate(zip(boundaries, ends, strict=True))
        ]
        self.generated = torch.zeros(1, dtype=torch.int32, device=device)
        """Generated tokens in the cache."""
        self.enlarged = False
        """Whether graphs captured before know wrong addresses now; whoever has graphs looks and resets it."""

    def of(self, layer: int) -> Section:
        """Return the section of a layer."""
        return next(section for section in self.sections if layer in section.layers)

    def load(self, following: Tensor, *, ordered: bool) -> None:
        """Make ready for steps what the prompt has left; see `Section.load`."""
        for section in self.sections:
            section.load(following, ordered=ordered)

    def nbytes(self) -> int:
        """Bytes behind all keys and values, unused slots included."""
        held = [part for section in self.sections for part in (section.keys, section.values)]
        return sum(states.untyped_storage().nbytes() for by_layer in held for states in by_layer.values())


class SlotCache(ReducedCache):
    """The cache of a prompt that will be decoded by the engine: it hands keys and values on to its memory."""

    def __init__(
        self,
        memory: Memory,
        new_tokens: int,
        keeps_visual: bool,
        num_layers: int,
        layout: TokenLayout,
        on_select_rows: Callable[[Tensor], None],
    ) -> None:
        super().__init__(num_layers, layout, on_select_rows)
        self.memory = memory
        self._new_tokens, self._keeps_visual = new_tokens, keeps_visual
        self.evicted: Sequence[Tensor] | None = None
        """By section, visual tokens of each row that are left (LongTensor [batch]) after evictions."""
        memory.generated.zero_()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's part of the prompt, which is returned as it came."""
        if layer_idx == 0:
            self.seen += self.incoming
        section = self.memory.of(layer_idx)
        if layer_idx == section.layers.start:
            tokens = self.cached[layer_idx]
            if not self._keeps_visual:
                tokens = _text_of(tokens)
            self.memory.enlarged |= section.prepare(tokens, self._new_tokens, self.memory.generated)
        section.store(layer_idx, key_states, value_states)
        return key_states, value_states

    def drop_visual(self) -> None:
        """Note that no visual token has been stored."""
        text = {tokens: _text_of(tokens) for tokens in dict.fromkeys(self.cached)}
        self.cached = [text[tokens] for tokens in self.cached]

    def lengths(self) -> Tensor:
        """LongTensor [layers, batch]: tokens cached."""
        found = super().lengths()
        if self.evicted is not None:
            for section, left in zip(self.memory.sections, self.evicted, strict=True):
                held = self.cached[section.layers.start].visual_counts
                found[section.layers.start : section.layers.stop] -= held - left
        return found

    def nbytes(self) -> int:
        """Bytes of memory behind all keys and values, unused slots included."""
        return self.memory.nbytes()
