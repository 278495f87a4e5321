"""One generation under a reduction method: the prompt's forward, the decode steps, what is remembered."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dyrate.attention import ForwardPass
from dyrate.attention_rows import Attention
from dyrate.cache import ReducedCache
from dyrate.contract import Contract, Kept
from dyrate.errors import DyrateError
from dyrate.prompt import Prompt
from dyrate.refusals import check_answer, check_ran
from dyrate.token_set import TokenSet, gather_tokens
from dyrate.views import AttentionByLayer, DecodeView, PrefillView


class Generation:
    """The state between a prompt's forward and its last decode step; the next prompt begins another one."""

    def __init__(
        self, method: Contract, cache: ReducedCache, prompt: Prompt, *, fewer_features: bool
    ) -> None:
        self.method, self.needs, self.cache = method, prompt.needs, cache
        self.fewer_features = fewer_features
        """Whether some of the prompt's visual tokens may have no features."""
        self.merged: dict[int, Tensor] = {}
        """By layer, LongTensor [batch, V]: `Kept.merged_into`."""
        self.state: dict[str, Tensor] = {}
        """What the method remembers."""
        self.forward = self._pass(0)
        """The forward under way, or the last one."""
        self._family = prompt.family
        self._prompt: Prompt | None = prompt
        self._previous: dict[int, Attention] = {}
        self.injected: list[Tensor] = []
        """What is added after the first layers, by layer: FloatTensor [batch, columns, hidden]."""
        self._positions: tuple[tuple[Tensor, Tensor], Tensor | None] | None = None
        """Of the tokens of the layers to come, where they are not those that the model hands down."""

    def _pass(self, index: int) -> ForwardPass:
        needs = self.needs
        return ForwardPass(
            index,
            list(self.cache.cached),
            self.cache.generated + 1 if index else 0,
            needs.observed,
            needs.blocked,
            needs.whole_rows,
            frozenset() if index else frozenset(needs.keys),
        )

    def begin_decode(self) -> None:
        """Begin the next decode step."""
        self.cache.incoming = 1
        self._previous = {layer: found.of_step_before() for layer, found in self.forward.attention.items()}
        self.forward = self._pass(self.forward.index + 1)
        self._positions = None

    def enter(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Let the method reduce what enters a layer: states [batch, tokens, hidden] and the layer's keyword
        arguments, which are changed in place.
        """
        check_ran(self.forward, layer)
        # Of a model that is spread over devices, what comes from the layer before is where that one is; the
        # hooks that spread it move what is handed on.
        beside = self.cache.cached[layer].beside
        hidden = beside(hidden)
        kwargs["position_embeddings"] = tuple(map(beside, kwargs["position_embeddings"]))
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = beside(kwargs["position_ids"])
        if self.forward.index:
            self._enter_at_decode(layer, hidden, kwargs)
        else:
            hidden = self._enter_at_prefill(layer, hidden, kwargs)
        if self._positions is not None:
            kwargs["position_embeddings"], kwargs["position_ids"] = self._positions
        return hidden

    def leave(self, layer: int, hidden: Tensor) -> Tensor:
        """Return what leaves a layer, [batch, tokens, hidden], with what the family adds to its tokens."""
        if layer < len(self.injected):
            tokens = self.cache.cached[layer]
            added = tokens.beside(gather_tokens(self.injected[layer], tokens.slots.clamp_min(0)))
            hidden = hidden + added.masked_fill(~tokens.valid[..., None], 0).to(hidden.device)
        return hidden

    def end_prefill(self) -> None:
        """Forget what belongs to the prompt alone, and drop from the cache what no later token may see."""
        self._prompt = None
        self.injected = []
        self.forward.keys.clear()
        self.forward.attention = {
            layer: found.of_step_before() for layer, found in self.forward.attention.items()
        }
        if ("res", "img") in self.needs.blocked:
            self.cache.drop_visual()

    def move_rows(self, rows: Tensor) -> None:
        """Follow a change of rows between two steps (beam search)."""
        moved = {layer: found.select_rows(rows) for layer, found in self.forward.attention.items()}
        self.forward.attention = moved
        self.state.update({name: value[rows] for name, value in self.state.items()})

    def _enter_at_prefill(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Drop what has no features or what the method drops here; return the states of what is left."""
        if not self.cache.layout.num_visual:
            return hidden
        assert self._prompt is not None
        if layer == 0 and self.fewer_features:
            hidden = self._drop(layer, hidden, self._prompt.filled, kwargs)
        if layer in self.needs.prefill:
            tokens = self.cache.cached[layer]
            answer = self.method.prefill(
                PrefillView(
                    layer=layer,
                    step=0,
                    present=tokens.present,
                    visual_tokens=tokens.layout.visual_tokens,
                    attention=AttentionByLayer(
                        self._looked_at(layer, hidden, kwargs), f"view at prefill, entering layer {layer},"
                    ),
                    state=self.state,
                    _tokens=tokens,
                    _hidden=hidden,
                    _prompt=self._prompt,
                    _keys=self.forward.keys,
                    _angles=self._angles(hidden, kwargs),
                    _witnesses=self.forward.witnesses,
                )
            )
            if answer is not None:
                kept = answer if isinstance(answer, Kept) else Kept(answer)
                check_answer(self.method, kept.tokens, tokens.present)
                hidden = self._change(layer, hidden, tokens, kept)
                hidden = self._drop(layer, hidden, kept.tokens, kwargs, kept.order)
        return hidden

    def _looked_at(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Mapping[int, Attention]:
        """Return the attention read so far in this pass; where needs ask, also that of this layer."""
        found = self.forward.attention
        if layer not in self.needs.ahead:
            return found
        there = next(self._family.layers[layer].parameters()).device
        cos, sin = (part.to(there) for part in self._angles(hidden, kwargs))
        query, key = self._family.language_rows(layer, hidden.to(there), 1, (cos, sin))
        if self.forward.index:
            key = torch.cat([self.cache.layers[layer].keys, key], dim=2)
        key = self.forward.attended_keys(layer, key)
        scaling = self._family.layers[layer].self_attn.scaling
        return {**found, layer: self.forward.look(layer, query, key, scaling)}

    def _angles(self, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the positions of the tokens that enter a layer, each [batch, tokens, D]."""
        cos, sin = kwargs["position_embeddings"] if self._positions is None else self._positions[0]
        return cos.expand(len(hidden), -1, -1), sin.expand(len(hidden), -1, -1)

    def _change(self, layer: int, hidden: Tensor, tokens: TokenSet, kept: Kept) -> Tensor:
        """Return the hidden states with those of the visual tokens as the method wants them."""
        if kept.merged_into is not None:
            if kept.merged_into.shape != kept.tokens.shape or kept.merged_into.is_floating_point():
                raise DyrateError(
                    f"{self.method} returned merged_into of shape {tuple(kept.merged_into.shape)}; a "
                    f"LongTensor of shape {tuple(kept.tokens.shape)} is expected"
                )
            self.merged[layer] = kept.merged_into
        if kept.order is not None:
            if kept.order.shape != kept.tokens.shape or kept.order.is_floating_point():
                raise DyrateError(
                    f"{self.method} returned an order of shape {tuple(kept.order.shape)}; a LongTensor of "
                    f"shape {tuple(kept.tokens.shape)} is expected"
                )
            if self.needs.positions != "contiguous":
                raise DyrateError(
                    f"{self.method} returned an order of tokens, which needs must announce: "
                    "positions='contiguous'"
                )
        if kept.states is None:
            return hidden
        shape = (*kept.tokens.shape, hidden.shape[-1])
        if tuple(kept.states.shape) != shape:
            raise DyrateError(
                f"{self.method} returned states of shape {tuple(kept.states.shape)}; {shape} is expected"
            )
        hidden = hidden.clone()
        rows, visual = tokens.present.nonzero(as_tuple=True)
        hidden[rows, tokens.visual_slots[rows, visual]] = kept.states[rows, visual].to(hidden.dtype)
        return hidden

    def _drop(
        self,
        layer: int,
        hidden: Tensor,
        keep: Tensor,
        kwargs: dict[str, Any],
        ranks: Tensor | None = None,
    ) -> Tensor:
        """Let layers from this one on see only `keep` of the visual tokens, at the right positions."""
        renumber = self.needs.positions == "contiguous"
        cached = self.cache.cached
        tokens, columns = cached[layer].restrict(keep, renumber=renumber, ranks=ranks)
        if tokens is cached[layer]:
            return hidden
        self.cache.cache_only(layer, tokens)
        self.forward.attended[layer:] = cached[layer:]
        if columns is not None:
            hidden = gather_tokens(hidden, columns)
        if renumber:
            if self._family.axes > 1 and tokens.most_visual:
                raise DyrateError(
                    f"{self.method} numbers the tokens that it keeps without gaps, and images of "
                    f"{self._family.name} have positions of {self._family.axes} axes, so no such numbers: "
                    "choose original positions"
                )
            self._positions = self._rotary(hidden, tokens.position_ids)
        else:
            # The model hands every layer the positions of the whole prompt.
            slots, batch = tokens.slots.clamp_min(0), len(hidden)
            cos, sin = (part.expand(batch, -1, -1) for part in kwargs["position_embeddings"])
            position_ids = kwargs.get("position_ids")
            if position_ids is not None:
                position_ids = position_ids.expand(batch, -1).gather(1, slots)
            self._positions = (gather_tokens(cos, slots), gather_tokens(sin, slots)), position_ids
        return hidden

    def _rotary(self, hidden: Tensor, position_ids: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return what layers are told of positions [batch, tokens]: cosine and sine, and themselves."""
        cos, sin = self._family.rotary(hidden, position_ids)
        return (cos.to(hidden.device), sin.to(hidden.device)), position_ids

    def _enter_at_decode(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Ask the method what this step may see from this layer on."""
        if layer and layer not in self.needs.layers:
            return
        tokens = self.cache.cached[layer]
        if tokens.next_position is not None:
            self._positions = self._rotary(
                hidden, (tokens.next_position + self.forward.generated - 1)[:, None]
            )
        if layer in self.needs.decode and tokens.layout.num_visual:
            keep = self.method.decode(self._decode_view(layer, hidden, tokens, kwargs))
            if keep is not None:
                check_answer(self.method, keep, tokens.present)
                if self.needs.decode_mode == "evict":
                    self.cache.evict(layer, keep)
                    self.forward.attended[layer:] = self.cache.cached[layer:]
                else:
                    self.forward.select(layer, self.cache.cached, keep)

    def _decode_view(
        self, layer: int, hidden: Tensor, tokens: TokenSet, kwargs: dict[str, Any]
    ) -> DecodeView:
        where = f"view at step {self.forward.index}, entering layer {layer},"
        return DecodeView(
            layer=layer,
            step=self.forward.index,
            present=tokens.present,
            visual_tokens=tokens.layout.visual_tokens,
            newest_state=hidden[:, -1],
            attention=AttentionByLayer(self._looked_at(layer, hidden, kwargs), where),
            previous=AttentionByLayer(self._previous, f"{where} of the step before"),
            state=self.state,
            _witnesses=self.forward.witnesses,
        )
