"""The plain references of the kernels against transformers' modules and SDPA, row by row."""

import pytest
import torch
from torch.nn.functional import linear as plain_linear
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig
from transformers.activations import QuickGELUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

from dyrate.kernels import residual
from dyrate.kernels.activations import quick_gelu, swiglu
from dyrate.kernels.attention import attention_weights, decode_attention
from dyrate.kernels.linear import linear
from dyrate.kernels.norm import rms_norm
from dyrate.kernels.perceptron import perceptron
from dyrate.kernels.residual import ResidualStream
from dyrate.kernels.rope import rope_and_split, rope_and_store
from tests.kernels.inputs import random_layers, random_reading, random_states

RAGGED = {"counts": [20, 7, 0], "system": [3, 0, 4], "text": [9, 12, 4]}


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("generated", [1, 5])
@pytest.mark.parametrize("capacity", [20, 0])
def test_attention_is_sdpa_over_what_is_read(heads: int, generated: int, capacity: int) -> None:
    rows = RAGGED if capacity else {**RAGGED, "counts": [0, 0, 0]}
    reading = random_reading(capacity, generated=generated, **rows)
    query, keys, values = random_states(reading, heads, kv_heads=2, width=8, spare=2)
    found = decode_attention(query, keys, values, reading, 0.3, statistics=True)
    assert found.class_mass is not None
    assert found.head_scores is not None
    assert found.head_scores.shape == (3, heads, capacity)
    for row, (count, system, text) in enumerate(zip(*rows.values(), strict=True)):
        chosen = reading.chosen[row, :count].long()
        words = torch.arange(reading.text_start, reading.text_start + text + generated)
        slots = torch.cat([chosen, words])
        key, value = (s[row, :, slots].repeat_interleave(heads // 2, 0) for s in (keys, values))
        expected = scaled_dot_product_attention(query[row, :, None], key, value, scale=0.3)[:, 0]
        torch.testing.assert_close(found.output[row], expected, rtol=1e-5, atol=1e-6)

        # Values that say which slot they are in give the weights.
        weights = scaled_dot_product_attention(
            query[row, :, None], key, torch.eye(len(slots)).expand(heads, -1, -1), scale=0.3
        )[:, 0]
        visual, sys, ins, res = weights.split([count, system, text - system, generated], dim=-1)
        mass = torch.stack([part.sum(-1) for part in (sys, visual, ins, res)], dim=-1)
        torch.testing.assert_close(found.class_mass[row], mass, rtol=1e-5, atol=1e-6)
        scores = torch.zeros(heads, capacity)
        scores[:, chosen] = visual
        torch.testing.assert_close(found.head_scores[row], scores, rtol=1e-5, atol=1e-6)
        unread = torch.ones(capacity, dtype=torch.bool)
        unread[chosen] = False
        assert (found.head_scores[row][:, unread] == 0).all()
    torch.testing.assert_close(found.class_mass.sum(-1), torch.ones(3, heads))


def test_statistics_are_left_out_where_not_asked_for() -> None:
    reading = random_reading(20, generated=1, **RAGGED)
    states = random_states(reading, 2, 2, 8, spare=0)
    without = decode_attention(*states, reading, 0.3, statistics=False)
    assert without.class_mass is None
    assert without.head_scores is None
    assert torch.equal(without.output, decode_attention(*states, reading, 0.3, statistics=True).output)


@pytest.mark.parametrize("heads", [2, 6])
def test_weights_of_whole_rows_are_a_softmax_over_what_is_read(heads: int) -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(3, heads, 8), torch.randn(3, 2, 11, 8)
    read = torch.rand(3, 11) < 0.6
    read[:, 4], read[:, 7] = True, False
    keys[:, :, 7] = float("nan")
    found = attention_weights(query, keys, read, 0.3)
    for row in range(3):
        for head in range(heads):
            logits = 0.3 * keys[row, head // (heads // 2), read[row]] @ query[row, head]
            torch.testing.assert_close(found[row, head, read[row]], logits.softmax(-1))
    assert (found[~read[:, None].expand_as(found)] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_is_llamas(dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(24, eps=1e-5).to(dtype)
    torch.nn.init.uniform_(norm.weight)
    x = torch.randn(3, 5, 24).to(dtype)
    assert torch.equal(rms_norm(x, norm.weight, 1e-5), norm(x))


def llama_mlp() -> LlamaMLP:
    return LlamaMLP(
        LlamaConfig(
            hidden_size=24, num_attention_heads=2, intermediate_size=40, hidden_act="silu", mlp_bias=True
        )
    )


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_linear_and_its_surroundings_are_llamas_block(rows: int) -> None:
    mlp, norm, x = llama_mlp(), LlamaRMSNorm(24, eps=1e-5), torch.randn(rows, 24)
    torch.nn.init.uniform_(norm.weight)
    weight = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    bias = torch.cat([mlp.gate_proj.bias, mlp.up_proj.bias])
    inner = linear(x, weight, bias=bias, norm=norm.weight, eps=1e-5, gated=True)
    found = linear(inner, mlp.down_proj.weight, bias=mlp.down_proj.bias, residual=x.clone())
    torch.testing.assert_close(found, x + mlp(norm(x)))
    unbiased = linear(inner, mlp.down_proj.weight, residual=x.clone())
    torch.testing.assert_close(unbiased, x + plain_linear(inner, mlp.down_proj.weight))
    torch.testing.assert_close(linear(inner, mlp.down_proj.weight), unbiased - x, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("in_halves", [True, False])
def test_the_residual_stream_is_llamas(monkeypatch: pytest.MonkeyPatch, in_halves: bool) -> None:
    monkeypatch.setattr(residual, "_in_halves", lambda x: in_halves)
    norm, out, down = LlamaRMSNorm(24, eps=1e-5), torch.randn(24, 16), torch.randn(24, 40)
    torch.nn.init.uniform_(norm.weight)
    hidden, attended, act, head = (torch.randn(3, n) for n in (24, 16, 40, 24))
    stream = ResidualStream(hidden.clone())
    stream.add(attended, out)
    first = hidden + attended @ out.T
    projected = stream.project(head, norm=norm.weight, eps=1e-5)
    torch.testing.assert_close(projected, norm(first) @ head.T)
    stream.add(act, down)
    stream.add(attended, out, bias=head[0])
    second = first + act @ down.T + attended @ out.T + head[0]
    torch.testing.assert_close(stream.hidden, second)
    torch.testing.assert_close(stream.project(head, norm=norm.weight, eps=1e-5), norm(second) @ head.T)


@torch.no_grad()
def test_swiglu_is_the_gate_of_llamas_block() -> None:
    mlp, x = llama_mlp(), torch.randn(2, 3, 24)
    gate_up = torch.cat([mlp.gate_proj(x), mlp.up_proj(x)], dim=-1)
    torch.testing.assert_close(mlp.down_proj(swiglu(gate_up)), mlp(x))


def test_quick_gelu_is_clips() -> None:
    x = torch.randn(2, 3, 24) * 3
    torch.testing.assert_close(quick_gelu(x), QuickGELUActivation()(x))


@torch.no_grad()
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_perceptron_is_its_parts(groups: int, log: bool) -> None:
    x, layers = torch.rand(2, 5, groups, 6), random_layers(inputs=6, hidden=7, outputs=3)
    parts = torch.nn.Linear(6, 7), torch.nn.GELU(), torch.nn.Linear(7, 3)
    for part, weight, bias in ((0, layers.hidden, layers.hidden_bias), (2, layers.out, layers.out_bias)):
        parts[part].weight.copy_(weight)
        parts[part].bias.copy_(bias)
    values = x.mean(dim=2)
    values = (values + 1e-5).log() if log else values
    expected = torch.nn.Sequential(*parts)((values - layers.mean) / layers.std)
    torch.testing.assert_close(perceptron(x, layers, log=log), expected)


@pytest.mark.parametrize("angles", [1, 2])
def test_rope_is_llamas(angles: int) -> None:
    batch, heads, kv_heads, tokens, width = 2, 4, 2, 5, 8
    query = torch.randn(batch, heads, tokens, width)
    key, value = (torch.randn(batch, kv_heads, tokens, width) for _ in range(2))
    cos, sin = (torch.randn(angles, tokens, width) for _ in range(2))
    qkv = torch.cat([states.transpose(1, 2).flatten(2) for states in (query, key, value)], dim=-1)
    expected = (*apply_rotary_pos_emb(query, key, cos, sin), value)
    split = rope_and_split(qkv, cos, sin, kv_heads)
    for found, states in zip(split, expected, strict=True):
        assert found.transpose(1, 2).is_contiguous()
        torch.testing.assert_close(found, states)

    keys, values = (torch.randn(batch, kv_heads, 9, width) for _ in range(2))
    slots = torch.tensor([7, 2])
    before = keys.clone(), values.clone()
    found = rope_and_store(qkv[:, 3], cos[:, 3], sin[:, 3], keys, values, slots)
    torch.testing.assert_close(found, expected[0][:, :, 3])
    for row, slot in enumerate(slots):
        for cache, old, states in zip((keys, values), before, expected[1:], strict=True):
            torch.testing.assert_close(cache[row, :, slot], states[row, :, 3])
            others = torch.arange(9) != slot
            assert torch.equal(cache[row][:, others], old[row][:, others])
