"""The attention of a model under token reduction: SDPA on each layer's own tokens, and the rows that methods
read.

One name is registered with transformers, as an attention function and as a mask function. The model's forward
carries a `ForwardPass` down to it as a keyword, so nothing is global.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dyrate.attention_rows import Attention, PromptAttention, PromptRows, on_slots
from dyrate.cache import with_generated
from dyrate.errors import DyrateError
from dyrate.needs import Queries
from dyrate.token_set import Blocked, TokenSet, gather_tokens

ATTENTION = "dyrate"
FORWARD_KEYWORD = "dyrate_forward"


@dataclass(eq=False)
class ForwardPass:
    """One forward of the model: what each layer attends to, and the attention that is read on the way."""

    index: int
    """0 is the prefill, t >= 1 the t-th decode step."""
    attended: list[TokenSet]
    """Per layer: the prompt tokens it attends to."""
    generated: int
    """Generated tokens in the cache during this pass, the incoming one included."""
    observed: Mapping[int, Queries]
    """Layers whose attention is read, and of which queries at prefill."""
    blocked: Blocked = frozenset()
    """(query class, key class) that do not see each other."""
    whole_rows: bool = False
    """Whether all weights of the attention read are kept."""
    kept_keys: frozenset[int] = frozenset()
    """Layers whose keys are kept."""
    keys: dict[int, tuple[Tensor, TokenSet]] = field(default_factory=dict)
    """Of them, those that have run: keys [batch, kv heads, slots, dim], and the tokens of the slots."""
    attention: dict[int, Attention] = field(default_factory=dict)
    """Of the observed layers that have run."""
    witnesses: dict[str, Tensor] = field(default_factory=dict)
    """By name, what vouches for numbers of this pass that must be finite."""
    ran: set[int] = field(default_factory=set)
    """Layers whose attention has run."""
    _masks: dict[TokenSet, Tensor | None] = field(default_factory=dict)
    _columns: dict[TokenSet, Tensor] = field(default_factory=dict)
    _selections: dict[tuple[TokenSet, Tensor], TokenSet] = field(default_factory=dict)

    def select(self, first_layer: int, cached: Sequence[TokenSet], keep: Tensor) -> None:
        """From `first_layer` on attend only to `keep` (BoolTensor [batch, V]) of the visual tokens cached."""
        for layer in range(first_layer, len(self.attended)):
            self.attended[layer] = self._selected(cached[layer], keep)

    def _selected(self, tokens: TokenSet, keep: Tensor) -> TokenSet:
        """Return what `keep` leaves of `tokens`; a choice made again costs nothing."""
        if keep is tokens.present:
            return tokens
        if (tokens, keep) not in self._selections:
            selected, columns = tokens.restrict(keep)
            if columns is not None:
                self._columns[selected] = with_generated(columns, tokens.width, self.generated)
            self._selections[tokens, keep] = selected
        return self._selections[tokens, keep]

    def mask(self, tokens: TokenSet) -> Tensor | None:
        """Return the attention mask of the layers that attend to `tokens`, None where SDPA needs none."""
        if tokens not in self._masks:
            self._masks[tokens] = (
                tokens.decode_mask(self.generated, self.blocked)
                if self.index
                else tokens.prefill_mask(self.blocked)
            )
        return self._masks[tokens]

    def look(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> Attention:
        """Return what a layer's newest query [batch, heads, 1, dim] sees of its keys [batch, kv, n, dim]."""
        tokens = self.attended[layer]
        mask = self.mask(tokens)
        mask = None if mask is None else mask[:, :, -1:]
        query, key = tokens.beside(query), tokens.beside(key)
        return newest_attention(query, key, mask, scaling, tokens, whole=self.whole_rows)

    def attended_keys(self, layer: int, key: Tensor) -> Tensor:
        """Return of a layer's keys [batch, kv heads, n, dim], or values, those that it attends to."""
        columns = self.columns(self.attended[layer])
        return key if columns is None else gather_tokens(key, columns)

    def columns(self, tokens: TokenSet) -> Tensor | None:
        """Return the cache columns [batch, n] that a selection picks, None where all are used."""
        return self._columns.get(tokens)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dyrate_forward: ForwardPass | None = None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the tokens that are this layer's: query [batch, heads, m, dim], key, value [batch, kv heads,
    n, dim].

    The queries are those of the newest m tokens.
    """
    if dyrate_forward is None:
        raise DyrateError(
            "a forward pass reached the attention without passing the hooks: call the whole model, "
            "model(...) or model.generate(...), not model.forward(...), its language model, or another model "
            "that shares its config"
        )
    if kwargs.get("sliding_window") is not None:
        raise DyrateError(
            f"layer {module.layer_idx} asks for a sliding window of {kwargs['sliding_window']}; supported is "
            "full attention in every layer"
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    dyrate_forward.ran.add(layer)
    tokens = dyrate_forward.attended[layer]
    key, value = (dyrate_forward.attended_keys(layer, states) for states in (key, value))
    mask = dyrate_forward.mask(tokens)
    mask = None if mask is None else mask[:, :, -query.shape[2] :]
    if layer in dyrate_forward.kept_keys:
        dyrate_forward.keys[layer] = tokens.beside(key), tokens
    queries = dyrate_forward.observed.get(layer)
    if queries is not None:
        found = dyrate_forward.look(layer, query[:, :, -1:], key, scaling)
        if queries != "last" and not dyrate_forward.index:
            asking, asked = tokens.beside(query), tokens.beside(key)
            of_prompt = prompt_attention(asking, asked, mask, scaling, tokens, queries)
            found = replace(found, of_prompt=of_prompt)
        dyrate_forward.attention[layer] = found
    mask = None if mask is None else mask.to(query.device)
    output, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    return output, None


def newest_attention(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float,
    tokens: TokenSet,
    *,
    whole: bool = False,
) -> Attention:
    """Compute one attention row: query [batch, heads, 1, dim], key [batch, kv heads, n, dim], mask [batch, 1,
    1, n].

    The keys are those of `tokens`, then those of generated tokens.
    """
    batch, heads = query.shape[:2]
    weights = _weights(query, key, mask, scaling).reshape(batch, heads, -1)
    return Attention(
        _class_mass(weights, tokens),
        on_slots(tokens.visual_slots, weights[..., : tokens.width]),
        tokens.present,
        whole=PromptRows(weights, tokens) if whole else None,
    )


def _class_mass(weights: Tensor, tokens: TokenSet) -> Tensor:
    """FloatTensor [batch, heads, 4]: weights [batch, heads, slots + generated], summed by class."""
    prompt, generated = weights[..., : tokens.width], weights[..., tokens.width :]
    return torch.cat([prompt @ tokens.class_one_hot, generated.sum(dim=-1, keepdim=True)], dim=-1)


def prompt_attention(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, tokens: TokenSet, queries: Queries
) -> PromptAttention:
    """Compute the attention rows of instruction tokens, or of all: query [batch, heads, slots, dim], key
    [batch, kv heads, slots, dim], mask [batch, 1, slots, slots], at prefill.
    """
    slots = tokens.slots.new_tensor(range(tokens.width)).expand(len(query), -1)
    slots = torch.where(tokens.valid, slots, -1) if queries == "all" else tokens.instruction_slots
    rows = slots.clamp_min(0)
    # Causal: a query sees the slots up to its own.
    seen = (torch.arange(tokens.width, device=slots.device) <= rows[:, :, None])[:, None]
    if mask is not None:
        seen = seen & mask.expand(len(query), -1, -1, -1).gather(
            2, rows[:, None, :, None].expand(-1, 1, -1, tokens.width)
        )
    weights = _weights(gather_tokens(query, rows), key, seen, scaling)
    return PromptAttention(weights.masked_fill((slots < 0)[:, None, :, None], 0), slots >= 0, tokens)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """FloatTensor [batch, heads, Q, n]: query [batch, heads, Q, dim], key [batch, kv heads, n, dim], mask
    [batch, 1, Q, n].
    """
    batch, heads, queries, width = query.shape
    kv_heads = key.shape[1]
    # The heads that share keys become rows of one product, so that keys are not repeated.
    grouped = query.float().reshape(batch, kv_heads, heads // kv_heads * queries, width)
    logits = grouped @ key.float().transpose(-1, -2) * scaling
    logits = logits.reshape(batch, heads, queries, key.shape[2])
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return logits.softmax(dim=-1)


def no_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> None:
    """Stand in for transformers' mask builder: masks differ by layer, so `attention_forward` makes them."""
    if attention_mask is not None:
        raise DyrateError(
            "a forward pass reached the text model without passing the hooks: call the whole model, "
            "model(...) or model.generate(...), and no other model that shares its config"
        )


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, no_mask)
