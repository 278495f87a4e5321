"""The prompt's pass: the stock model and the methods' hooks, with layers that run on fused kernels.

Of the last layer only the newest token's output is made: the others' keys and values are all that is used.
While the vision encoder runs, the host goes on and hands over the layers.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear as product

from dyrate.attention import attention_forward
from dyrate.engine.tokenwise import Tokenwise
from dyrate.engine.weights import LayerWeights
from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.hooks import stand_in
from dyrate.kernels.activations import swiglu
from dyrate.kernels.norm import rms_norm
from dyrate.kernels.rope import rope_and_split

_AT_ONCE = 16384
"""Tokens that go through a feed-forward layer at once; enough to fill any GPU."""


def fuse_layers(
    family: Family, weights: Sequence[LayerWeights], tokenwise: Tokenwise, undo: ExitStack
) -> None:
    """Let decoder layers run on fused kernels until `undo` is closed; hooks around them stay as they are."""
    for index, (layer, fused) in enumerate(zip(family.layers, weights, strict=True)):
        newest = index == len(weights) - 1
        stand_in(layer, "forward", _forward(layer, fused, tokenwise, newest=newest), undo)


def tell_places(model: Any, input_ids: Tensor, image_token_id: int, undo: ExitStack) -> None:
    """Let a model put visual features where the prompt [batch, columns] has image tokens.

    The host counts these before the forward; the model itself would wait for the encoder to compare numbers.
    Raises `DyrateError`, in the forward, where they differ.
    """
    if "video_features" in signature(model.get_placeholder_mask).parameters:
        return  # asked for two kinds of places; their encoders have the host wait anyway
    places = input_ids == image_token_id
    tokens = int(places.sum())

    def get_placeholder_mask(input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        found = image_features.numel() // inputs_embeds.shape[-1]
        if found != tokens:
            raise DyrateError(
                f"the prompts have {tokens} image tokens, but the images make {found} visual features: "
                "prompts and images do not belong together"
            )
        return places[..., None]

    stand_in(model, "get_placeholder_mask", get_placeholder_mask, undo)


def _forward(layer: Any, weights: LayerWeights, tokenwise: Tokenwise, newest: bool) -> Callable[..., Tensor]:
    """Return what runs in the layer's place; `newest`: its output is that of the newest token alone."""
    attention = layer.self_attn
    index = attention.layer_idx

    def forward(
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Do what the layer does, hidden states [batch, tokens, d]."""
        assert position_embeddings is not None
        batch, _, width = hidden_states.shape
        few = tokenwise.serves(hidden_states)
        if few:
            query, key, value = tokenwise.before(index, hidden_states, *position_embeddings)
            if index in kwargs["dyrate_forward"].kept_keys:
                key = key.clone()
        else:
            normed = rms_norm(hidden_states, weights.input_norm, weights.eps)
            qkv = product(normed, weights.qkv, weights.qkv_bias)
            kv_heads = attention.config.num_key_value_heads
            query, key, value = rope_and_split(qkv, *position_embeddings, kv_heads, weights.head_norms)
        if newest:
            hidden_states, query = hidden_states[:, -1:], query[:, :, -1:]
        tokens = hidden_states.shape[1]
        found, _ = attention_forward(
            attention, query, key, value, attention_mask, scaling=weights.scaling, **kwargs
        )
        found = found.reshape(batch, tokens, -1)
        if few and not newest:
            hidden = tokenwise.after(index, found)
        else:
            hidden = product(found, weights.out, weights.out_bias).add_(hidden_states)
            # In place: nobody else has seen it. In parts: large batches need their memory for the cache.
            for part in torch.split(hidden.view(batch * tokens, width), _AT_ONCE):
                normed = rms_norm(part, weights.post_norm, weights.eps)
                act = swiglu(product(normed, weights.gate_up))
                torch.addmm(part, act, weights.down.t(), out=part)
        # Last, so that the device is busy while the host makes room.
        past_key_values.update(key, value, index)
        return hidden

    return forward
