"""The decoder's weights as the engine reads them: products of one input fused into one matrix.

The model goes on working: its own weights become views of the fused ones, so nothing is held twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyrate.engine.parts import check_parts
from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.kernels.rope import HeadNorms

_MOST_POSITIONS = 1 << 17
"""Of the rotary table, 64 MiB in half precision; some models know twice as many."""


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One decoder layer: hidden size d, feed-forward size f, heads of D numbers."""

    input_norm: Tensor
    """[d]."""
    qkv: Tensor
    """[(heads + 2 kv_heads) D, d]: queries, keys, values."""
    qkv_bias: Tensor | None
    """[(heads + 2 kv_heads) D]."""
    head_norms: HeadNorms | None
    out: Tensor
    """[d, heads D]."""
    out_bias: Tensor | None
    """[d]."""
    post_norm: Tensor
    """[d]."""
    gate_up: Tensor
    """[2f, d]: gate, up."""
    down: Tensor
    """[d, f]."""
    eps: float
    """Of both norms."""
    scaling: float
    """Of attention logits."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """All that a decode step reads of the model."""

    embed: Tensor
    """[vocabulary, d]."""
    layers: Sequence[LayerWeights]
    norm: Tensor
    """[d]: the last norm's weight."""
    head: Tensor
    """[vocabulary, d]."""
    head_bias: Tensor | None
    cos: Tensor
    """[positions, D]: rotary table."""
    sin: Tensor

    @classmethod
    def of(cls, model: Any, family: Family) -> "Backbone":
        """Take it from a model, whose decoder layers are fused in place.

        Raises `DyrateError`, before anything is fused, for parts that are not plain ones (see `parts`) and
        for rotary angles that are not the same at every length.
        """
        check_parts(model)
        text = model.model.language_model
        cos, sin = _angles(family)
        return cls(
            embed=text.embed_tokens.weight,
            layers=[_fused(layer) for layer in family.layers],
            norm=text.norm.weight,
            head=model.lm_head.weight,
            head_bias=model.lm_head.bias,
            cos=cos,
            sin=sin,
        )


@torch.no_grad()
def _angles(family: Family) -> tuple[Tensor, Tensor]:
    """Return the rotary table, cos and sin [positions, D]."""
    embed: Any = family.embed
    states = embed.weight[:1, None]
    most = min(family.text_config.max_position_embeddings, _MOST_POSITIONS)
    positions = torch.arange(most, device=states.device)[None]
    cos, sin = family.rotary(states, positions)
    width = family.layers[0].self_attn.head_dim
    if cos.shape[-1] != width:
        raise DyrateError(
            f"rotary positions turn {cos.shape[-1]} of the {width} numbers of a head; the graph engine turns "
            "all: use engine='transformers'"
        )
    return cos[0], sin[0]


@torch.inference_mode(False)  # what is made in that mode would be of no use to the model outside of it
@torch.no_grad()
def _fused(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    qkv, qkv_bias = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
    gate_up, _ = _joined([mlp.gate_proj, mlp.up_proj])
    return LayerWeights(
        input_norm=layer.input_layernorm.weight,
        qkv=qkv,
        qkv_bias=qkv_bias,
        head_norms=_head_norms(attention),
        out=attention.o_proj.weight,
        out_bias=attention.o_proj.bias,
        post_norm=layer.post_attention_layernorm.weight,
        gate_up=gate_up,
        down=mlp.down_proj.weight,
        eps=layer.input_layernorm.variance_epsilon,
        scaling=attention.scaling,
    )


def _head_norms(attention: Any) -> HeadNorms | None:
    if not hasattr(attention, "q_norm"):
        return None
    query, key = attention.q_norm, attention.k_norm
    return HeadNorms(query.weight, key.weight, query.variance_epsilon)


def _joined(modules: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Return the weights and biases of some modules below each other, and let them be views of these."""
    weights, biases = [module.weight for module in modules], [module.bias for module in modules]
    return _below(weights), _below(biases) if biases[0] is not None else None


def _below(parts: Sequence[Tensor]) -> Tensor:
    """Return one tensor of parameters that lie below each other in memory, after moving them there if need
    be: two engines of one model share it.
    """
    first, rows = parts[0], sum(len(part) for part in parts)
    ends = [part.data_ptr() + part.nbytes for part in parts]
    together = [part.data_ptr() for part in parts[1:]] == ends[:-1]
    if together and len({part.untyped_storage().data_ptr() for part in parts}) == 1:
        return first.detach().as_strided((rows, *first.shape[1:]), first.stride())
    whole = torch.cat([part.detach() for part in parts])
    row = 0
    for part in parts:
        part.data = whole[row : row + len(part)]
        row += len(part)
    return whole
