"""A KV cache whose layers and rows may hold different tokens, and the bookkeeping of which these are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from dyrate.errors import DyrateError
from dyrate.tokens import TokenClass, TokenLayout


def gather_tokens(states: Tensor, columns: Tensor) -> Tensor:
    """Pick `columns` [batch, n] of `states` [batch, tokens, width] or [batch, heads, tokens, width]."""
    index = columns[:, None, :, None] if states.dim() == 4 else columns[:, :, None]
    return states.gather(
        states.dim() - 2, index.expand(*states.shape[:-2], columns.shape[1], states.shape[-1])
    )


@dataclass(frozen=True, eq=False)
class Stage:
    """The prompt tokens held by a run of consecutive layers; generated tokens follow them in every row alike.

    Rows that hold fewer tokens than the longest one have padding slots. A stage never changes: reducing it or
    picking rows makes a new one, so that layers share stages, and whatever is derived from one is computed
    once.
    """

    layout: TokenLayout
    slots: Tensor
    """LongTensor [batch, slots]: the prompt column that each slot holds, -1 for padding."""
    padded: bool
    """Whether any slot of any row is padding."""
    most_visual: int
    """The most visual tokens that a row holds, or more."""
    complete: bool
    """Whether every row surely holds all its visual tokens."""
    next_position: Tensor | None = None
    """LongTensor [batch]: position of the first generated token where positions were renumbered, else None.
    """

    @classmethod
    def whole(cls, layout: TokenLayout) -> "Stage":
        """Return the stage that holds the whole prompt, padding columns included."""
        columns = torch.arange(layout.classes.shape[1], device=layout.classes.device)
        slots = torch.where(layout.classes == TokenClass.PADDING, -1, columns)
        return cls(layout, slots, layout.padded, most_visual=layout.num_visual, complete=True)

    @property
    def width(self) -> int:
        """Number of slots of every row."""
        return self.slots.shape[1]

    @cached_property
    def valid(self) -> Tensor:
        """BoolTensor [batch, slots]: which slots hold a token."""
        return self.slots >= 0

    @cached_property
    def lengths(self) -> Tensor:
        """LongTensor [batch]: prompt tokens held."""
        return self.valid.sum(dim=1)

    @cached_property
    def position_ids(self) -> Tensor:
        """LongTensor [batch, slots]: the tokens of each row numbered without gaps; 0 at padding."""
        return (self.valid.cumsum(dim=1) - 1).clamp_min(0)

    @cached_property
    def visual_index(self) -> Tensor:
        """LongTensor [batch, slots]: which visual token a slot holds, -1 for text and padding."""
        return self._of_slots(self.layout.visual_index)

    @cached_property
    def class_one_hot(self) -> Tensor:
        """FloatTensor [batch, slots, 3]: sys, img, ins; all zero at padding."""
        prompt_classes = torch.arange(TokenClass.RES, device=self.slots.device)
        return (self._of_slots(self.layout.classes)[..., None] == prompt_classes).float()

    @cached_property
    def visual_slots(self) -> Tensor:
        """LongTensor [batch, V]: the slot of each visual token, -1 for one that is not held."""
        batch, num_visual = len(self.slots), self.layout.num_visual
        slots = torch.full((batch, num_visual + 1), -1, device=self.slots.device)
        spare = torch.where(self.visual_index < 0, num_visual, self.visual_index)
        slots.scatter_(1, spare, torch.arange(self.width, device=self.slots.device).expand(batch, -1))
        return slots[:, :num_visual]

    @cached_property
    def present(self) -> Tensor:
        """BoolTensor [batch, V]: the visual tokens held."""
        return self.visual_slots >= 0

    @cached_property
    def visual_counts(self) -> Tensor:
        """LongTensor [batch]: number of visual tokens held."""
        return self.present.sum(dim=1)

    @cached_property
    def prefill_mask(self) -> Tensor | None:
        """BoolTensor [batch, 1, slots, slots], causal, None where plain causal attention is right.

        Padding slots see themselves, so that no row of the softmax is empty.
        """
        if not self.padded:
            return None
        causal = torch.ones(self.width, self.width, dtype=torch.bool, device=self.slots.device).tril()
        itself = torch.eye(self.width, dtype=torch.bool, device=self.slots.device)
        return (causal & self.valid[:, None, None, :]) | itself

    def decode_mask(self, generated: int) -> Tensor | None:
        """BoolTensor [batch, 1, 1, slots + generated], None where every row holds as many tokens."""
        if not self.padded:
            return None
        return pad(self.valid, (0, generated), value=True)[:, None, None, :]

    def restrict(self, keep: Tensor, *, renumber: bool = False) -> tuple["Stage", Tensor | None]:
        """Drop the visual tokens that are not in `keep` (BoolTensor [batch, V]).

        Returns the new stage, this one if nothing is dropped, and the slots of this one that it holds
        (LongTensor [batch, new slots]), None if no slot could go because the longest row keeps all it has.
        `renumber` gives the tokens of each row new positions. Reads the new lengths back to the host.
        """
        held = self._held(keep)
        lengths = held.sum(dim=1)
        visual = (held & (self.visual_index >= 0)).sum(dim=1)
        missing = (self.layout.visual_tokens - visual).max()
        # A stable sort puts what is dropped on the left and leaves the order of what is kept. Before the host
        # waits for the numbers, as all that it asks for after that keeps the device waiting.
        order = held.to(torch.uint8).argsort(dim=1, stable=True)
        slots = torch.where(held, self.slots, -1)
        in_order = slots.gather(1, order)
        any_dropped = (self.valid & ~held).any()
        shortest, longest, most_visual, missing, any_dropped = torch.stack(
            [lengths.min(), lengths.max(), visual.max(), missing, any_dropped]
        ).tolist()
        if not any_dropped:
            return self, None
        columns = None
        if longest < self.width:
            columns, slots = (part[:, self.width - longest :] for part in (order, in_order))
        next_position = lengths if renumber else self.next_position
        stage = Stage(
            self.layout,
            slots,
            padded=shortest < longest,
            most_visual=most_visual,
            complete=not missing,
            next_position=next_position,
        )
        return stage, columns

    def without(self, keep: Tensor) -> "Stage":
        """Drop what is not in `keep` (BoolTensor [batch, V]) and leave its slots empty.

        Nothing is read back to the host.
        """
        slots = torch.where(self._held(keep), self.slots, -1)
        return replace(self, slots=slots, padded=True, complete=False)

    def _held(self, keep: Tensor) -> Tensor:
        """BoolTensor [batch, slots]: text, and the visual tokens in `keep`."""
        return self.valid & ((self.visual_index < 0) | keep.gather(1, self.visual_index.clamp_min(0)))

    def select_rows(self, rows: Tensor, layout: TokenLayout) -> "Stage":
        """Return the stage of the batch made of `rows`; `layout` is the layout of that batch."""
        next_position = None if self.next_position is None else self.next_position[rows]
        return replace(self, layout=layout, slots=self.slots[rows], next_position=next_position)

    def _of_slots(self, prompt: Tensor) -> Tensor:
        return prompt.gather(1, self.slots.clamp_min(0)).masked_fill(~self.valid, -1)


class ReducedCache(Cache):  # type: ignore[misc]
    """Keys and values [batch, kv heads, slots + generated, head_dim] per layer, and the stage that each layer
    holds.

    The newest token is always last. `get_seq_length` counts the tokens seen, not those held, so that the
    position of the next token stays right.
    """

    def __init__(self, num_layers: int, layout: TokenLayout, on_select_rows: Callable[[Tensor], None]):
        super().__init__(layers=[DynamicLayer() for _ in range(num_layers)])
        self.stages = [Stage.whole(layout)] * num_layers
        self.layout = layout
        self.seen = 0
        self.incoming = layout.classes.shape[1]
        """Tokens that the forward under way brings; 0 between forwards."""
        self._on_select_rows: Callable[[Tensor], None] | None = on_select_rows

    @property
    def generated(self) -> int:
        """Generated tokens that have been fed back so far."""
        return max(0, self.seen - self.layout.classes.shape[1])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values to a layer and return all that it holds.

        Raises `DyrateError` outside the forwards of the `with` block that made the cache.
        """
        if not self.incoming:
            raise DyrateError(
                "a reduced KV cache serves its own model inside its own with block only: layers and rows "
                "hold different tokens, which nobody else knows of; start from the whole prompt"
            )
        if layer_idx == 0:
            self.seen += self.incoming
        updated: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return updated

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens seen, padding and dropped tokens included."""
        return self.seen

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return (key length, key offset) for mask builders; this package builds its own masks."""
        return self.seen + query_length, 0

    def hold(self, first_layer: int, stage: Stage) -> None:
        """Say, at prefill, that layers from `first_layer` on hold `stage`."""
        self.stages[first_layer:] = [stage] * (len(self.stages) - first_layer)

    def evict(self, first_layer: int, keep: Tensor) -> None:
        """Remove visual tokens not in `keep` (BoolTensor [batch, V]) from `first_layer` on, for good."""
        restricted: dict[Stage, tuple[Stage, Tensor | None]] = {}
        for index in range(first_layer, len(self.stages)):
            old = self.stages[index]
            if old not in restricted:
                restricted[old] = old.restrict(keep)
            self.stages[index], columns = restricted[old]
            if columns is not None:
                layer = self.layers[index]
                columns = with_generated(columns, old.width, layer.keys.shape[-2] - old.width)
                layer.keys = gather_tokens(layer.keys, columns)
                layer.values = gather_tokens(layer.values, columns)

    def lengths(self) -> Tensor:
        """LongTensor [layers, batch]: tokens really held, without padding."""
        return torch.stack([stage.lengths for stage in self.stages]) + self.generated

    def nbytes(self) -> int:
        """Bytes of memory behind all keys and values, padding slots included."""
        held = [
            states for layer in self.layers if layer.is_initialized for states in (layer.keys, layer.values)
        ]
        return sum(states.untyped_storage().nbytes() for states in held)

    def select_rows(self, rows: Tensor) -> None:
        """Make the batch consist of `rows` (LongTensor [new batch]) of the present one."""
        self.layout = self.layout.select_rows(rows)
        selected = {stage: stage.select_rows(rows, self.layout) for stage in dict.fromkeys(self.stages)}
        self.stages = [selected[stage] for stage in self.stages]
        for layer in self.layers:
            layer.keys = layer.keys.index_select(0, rows)
            layer.values = layer.values.index_select(0, rows)
        if self._on_select_rows is not None:
            self._on_select_rows(rows)

    def release(self) -> None:
        """Part from the run: no forward adds to this cache any more, and its rows move alone."""
        self.incoming = 0
        self._on_select_rows = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beam search: row i continues row `beam_idx[i]`."""
        self.select_rows(beam_idx.to(self.layout.classes.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        rows = torch.arange(len(self.layout.classes), device=self.layout.classes.device)
        self.select_rows(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices` (indices or a boolean mask)."""
        rows = torch.arange(len(self.layout.classes), device=self.layout.classes.device)
        self.select_rows(rows[indices])

    @property
    def is_croppable(self) -> bool:
        """False: an evicted token does not come back."""
        return False

    def crop(self, tokens_to_remove: int) -> None:
        """Raise: rolling back (assisted decoding) is not supported."""
        raise DyrateError(
            "a reduced KV cache cannot be cropped: assisted and speculative decoding are not supported"
        )

    def activate_past_recording(self) -> None:
        """Raise: rolling back (assisted decoding) is not supported."""
        self.crop(0)


def with_generated(columns: Tensor, width: int, generated: int) -> Tensor:
    """Append the columns of generated tokens to `columns` [batch, n] of a stage of `width` slots."""
    tail = torch.arange(width, width + generated, device=columns.device)
    return torch.cat([columns, tail.expand(len(columns), -1)], dim=1)
