"""A KV cache whose layers and rows may hold different tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from dyrate.errors import DyrateError
from dyrate.token_set import TokenSet, gather_tokens
from dyrate.tokens import TokenLayout


class ReducedCache(Cache):  # type: ignore[misc]
    """Keys and values [batch, kv heads, slots + generated, head_dim] per layer, and the prompt tokens
    among them.

    The newest token is always last. `get_seq_length` counts the tokens seen, not those held, so that the
    position of the next token stays right.
    """

    def __init__(self, num_layers: int, layout: TokenLayout, on_select_rows: Callable[[Tensor], None]):
        super().__init__(layers=[DynamicLayer() for _ in range(num_layers)])
        self.cached = [TokenSet.whole(layout)] * num_layers
        """Per layer: the prompt tokens that it holds, or will hold once it has run."""
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

    def cache_only(self, first_layer: int, tokens: TokenSet) -> None:
        """Let layers from `first_layer` on, which have not run yet, cache `tokens` of the prompt."""
        self.cached[first_layer:] = [tokens] * (len(self.cached) - first_layer)

    def evict(self, first_layer: int, keep: Tensor) -> None:
        """Remove visual tokens not in `keep` (BoolTensor [batch, V]) from `first_layer` on, for good."""
        restricted: dict[TokenSet, tuple[TokenSet, Tensor | None]] = {}
        for index in range(first_layer, len(self.cached)):
            old = self.cached[index]
            if old not in restricted:
                restricted[old] = old.restrict(keep)
            self.cached[index], columns = restricted[old]
            if columns is not None:
                layer = self.layers[index]
                columns = with_generated(columns, old.width, layer.keys.shape[-2] - old.width)
                layer.keys = gather_tokens(layer.keys, columns)
                layer.values = gather_tokens(layer.values, columns)

    def drop_visual(self) -> None:
        """Remove all visual tokens from every layer, for good."""
        if self.layout.num_visual:
            self.evict(0, torch.zeros_like(self.cached[0].present))

    def lengths(self) -> Tensor:
        """LongTensor [layers, batch]: tokens cached, without padding."""
        return torch.stack([tokens.lengths for tokens in self.cached]) + self.generated

    def nbytes(self) -> int:
        """Bytes of memory behind all keys and values, padding slots included."""
        held = [
            states for layer in self.layers if layer.is_initialized for states in (layer.keys, layer.values)
        ]
        return sum(states.untyped_storage().nbytes() for states in held)

    def select_rows(self, rows: Tensor) -> None:
        """Make the batch consist of `rows` (LongTensor [new batch]) of the present one."""
        self.layout = self.layout.select_rows(rows)
        selected = {tokens: tokens.select_rows(rows, self.layout) for tokens in dict.fromkeys(self.cached)}
        self.cached = [selected[tokens] for tokens in self.cached]
        for layer in self.layers:
            own = rows.to(layer.keys.device)
            layer.keys = layer.keys.index_select(0, own)
            layer.values = layer.values.index_select(0, own)
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
    """Append the columns of generated tokens to `columns` [batch, n] of a set of `width` slots."""
    tail = torch.arange(width, width + generated, device=columns.device)
    return torch.cat([columns, tail.expand(len(columns), -1)], dim=1)
