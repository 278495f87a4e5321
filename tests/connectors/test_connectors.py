"""What holds of every connector, and of each what its official code says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dyrate.connectors import connector as connector_module
from dyrate.connectors.connector import Question, Sizes
from dyrate.connectors.registry import build, connectors
from dyrate.errors import DyrateError
from dyrate.fingerprint import sources
from tests.connectors.small_connectors import FIELDS, SIZES, TOKENS, connector, question, states

NAMES = sorted(FIELDS)


def test_every_connector_is_tested_here() -> None:
    assert sorted(connectors()) == NAMES == sorted(TOKENS)


def test_what_answers_knows_the_code_of_every_connector() -> None:
    known = {path.name for path in sources(["dyrate.evaluation.adapter"]) if path.parent.name == "connectors"}
    assert known == {path.name for path in Path(connector_module.__file__).parent.glob("*.py")}


@pytest.mark.parametrize("name", NAMES)
class TestEvery:
    @torch.no_grad()
    def test_makes_its_number_of_tokens(self, name: str) -> None:
        made = connector(name)
        found = made(states(made), question())
        assert found.shape == (3, TOKENS[name], SIZES.hidden)
        assert made.tokens == TOKENS[name]
        assert made.grid is None or made.grid[0] * made.grid[1] == made.tokens

    @torch.no_grad()
    def test_treats_images_one_by_one(self, name: str) -> None:
        made, asked = connector(name), question()
        whole, given = made(states(made), asked), states(made)
        for image in range(3):
            words = int(asked.mask[image].sum())
            own = Question(asked.ids[image : image + 1, :words], asked.mask[image : image + 1, :words])
            torch.testing.assert_close(made(given[image : image + 1], own)[0], whole[image])

    def test_is_built_again_from_its_fields(self, name: str) -> None:
        made = connector(name)
        again = build(name, SIZES, made.fields)
        again.load_state_dict(made.state_dict())
        assert again.fields == made.fields
        torch.testing.assert_close(again.eval()(states(made), question()), made(states(made), question()))

    def test_every_weight_has_a_part_in_what_comes_out(self, name: str) -> None:
        made = connector(name)
        made(states(made), question()).square().sum().backward()
        # Words change nothing after the last layer in which queries look at them.
        last = f"qformer.encoder.layer.{FIELDS[name].get('depth', 0) - 1}."
        idle = [
            key
            for key, part in made.named_parameters()
            if part.grad is None or not part.grad.any()
            if not (last in key and ("intermediate." in key or "output." in key) and "_query" not in key)
            if not key.endswith("key.bias")  # adds the same to all logits of a query
            if key != "embedding"  # is put into the language model
        ]
        assert idle == []

    def test_costs_more_for_more_words_if_it_reads_them(self, name: str) -> None:
        made = connector(name)
        assert made.macs(2) > 0
        assert (made.macs(2) < made.macs(9)) == made.reads_questions

    def test_refuses_what_is_no_field(self, name: str) -> None:
        with pytest.raises(DyrateError, match=f"connector {name} has no field 'colour'"):
            build(name, SIZES, {"colour": 1})


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(
        DyrateError, match=r"connector 'glue' is unknown; known: compression_tokens, context, .*token_packer"
    ):
        build("glue", SIZES, {})


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("nested_pool", {"kernel": 3}),
        ("ldp", {"stride": 3}),
        ("token_packer", {"scale": 3}),
        ("context", {"edge": 3}),
    ],
)
def test_what_does_not_divide_the_image_is_refused(name: str, fields: dict[str, int]) -> None:
    with pytest.raises(DyrateError, match="is 3, which does not divide an edge of 4 patches: 1, 2, 4"):
        build(name, SIZES, {**FIELDS[name], **fields})


@torch.no_grad()
def test_nested_pool_is_the_projector_at_1_and_each_scale_the_mean_of_the_one_below() -> None:
    made, plain = connector("nested_pool"), connector("projector")
    plain.load_state_dict(made.state_dict())
    given = states(made)
    found = {}
    for kernel in (1, 2, 4):
        made.kernel = kernel
        found[kernel] = made(given)
        assert made.tokens == (4 // kernel) ** 2 == found[kernel].shape[1]
    torch.testing.assert_close(found[1], plain(given))
    torch.testing.assert_close(found[4][:, 0], plain(given).mean(1))
    torch.testing.assert_close(found[4], found[2].mean(1, keepdim=True))
    torch.testing.assert_close(found[2][:, 1], plain(given)[:, [2, 3, 6, 7]].mean(1))


@torch.no_grad()
def test_ldp_adds_a_convolution_to_the_means() -> None:
    made = connector("ldp")
    given = states(made)
    tokens = made.mlp(given)[0].view(4, 4, -1)
    mean = torch.stack(
        [tokens[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((0, 1)) for y in (0, 1) for x in (0, 1)]
    )
    weight, padded = made.peg.weight[:, 0], torch.zeros(4, 4, SIZES.hidden)
    padded[1:3, 1:3] = mean.view(2, 2, -1)
    expected = torch.stack(
        [
            mean[2 * y + x]
            + made.peg.bias
            + sum(padded[y + i, x + j] * weight[:, i, j] for i in range(3) for j in range(3))
            for y in (0, 1)
            for x in (0, 1)
        ]
    )
    torch.testing.assert_close(made(given)[0], expected)


def by_hand(attention: nn.MultiheadAttention, query, key, value):  # type: ignore[no-untyped-def]
    """One query [width] at keys and values [n, width], head by head."""
    width = len(query)
    (wq, wk, wv), (bq, bk, bv) = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = wq @ query + bq, key @ wk.T + bk, value @ wv.T + bv
    size, found = width // attention.num_heads, []
    for head in range(attention.num_heads):
        part = slice(head * size, (head + 1) * size)
        weights = (k[:, part] @ q[part] / math.sqrt(size)).softmax(0)
        found.append(weights @ v[:, part])
    return attention.out_proj(torch.cat(found))


@torch.no_grad()
def test_token_packer_looks_at_its_own_square_only() -> None:
    made = connector("token_packer")
    given = states(made)
    width = SIZES.width
    fine, last = given[0, :, : 2 * width], given[0, :, 2 * width :]
    # Half the edge, corners not aligned: the mean of the four patches in the middle of 2 x 2 is that of all
    # four.
    key, value = made.ln_k(made.k_proj(fine)), made.ln_v(made.v_proj(fine))
    for token, own in enumerate([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]):
        query = made.ln_q(made.q_proj(last[own].mean(0)))
        expected = made.mlp(by_hand(made.attention, query, key[own], value[own]))
        torch.testing.assert_close(made(given)[0, token], expected)


@torch.no_grad()
def test_token_packer_at_a_third_interpolates_its_queries() -> None:
    made = build("token_packer", Sizes(8, 4, 6), {"scale": 3, "layers": (0, -2), "heads": 2}).eval()
    given = states(made)
    changed = given.clone()
    changed[:, 0, 8:] += 5  # a corner: no point of 2 x 2 lies near it, so no query sees it
    torch.testing.assert_close(made(changed), made(given))
    changed[:, 7, 8:] += 5  # the middle of the first square, which is all that its query is
    moved = (made(changed) - made(given)).abs().amax(-1)[0]
    assert moved[0] > 0
    assert not moved[1:].any()
    changed = given.clone()
    changed[:, 0, :8] += 5
    moved = (made(changed) - made(given)).abs().amax(-1)[0]
    assert moved[0] > 0
    assert not moved[1:].any()


def official_sines(width: int, edge: int) -> np.ndarray:
    """MAE's `get_2d_sincos_pos_embed`, from its description: x first, in each half sines before cosines."""
    found = np.zeros((edge, edge, width))
    for y in range(edge):
        for x in range(edge):
            for half, place in enumerate((x, y)):
                for i in range(width // 4):
                    angle = place / 10000 ** (i / (width / 4))
                    found[y, x, half * width // 2 + i] = math.sin(angle)
                    found[y, x, half * width // 2 + width // 4 + i] = math.cos(angle)
    return found.reshape(edge * edge, width)


@torch.no_grad()
def test_resampler_looks_with_positions_and_takes_without() -> None:
    made = connector("resampler")
    given = states(made)
    table = torch.tensor(official_sines(SIZES.hidden, 3), dtype=torch.float32)
    torch.testing.assert_close(made.query_positions[0], table)
    larger = functional.interpolate(table.T.view(1, -1, 3, 3), (4, 4), mode="bicubic")[0].flatten(1).T
    value = made.ln_kv(made.kv_proj(given[0]))
    for token in (0, 4, 8):
        query = made.ln_q(made.query[token]) + table[token]
        expected = made.ln_post(by_hand(made.attention, query, value + larger, value)) @ made.proj
        torch.testing.assert_close(made(given)[0, token], expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qformer", "instruct_qformer"])
def test_queries_have_no_place(name: str) -> None:
    made = connector(name)
    before, order = made(states(made), question()), torch.tensor([3, 0, 5, 1, 4, 2])
    made.query.copy_(made.query[:, order])
    torch.testing.assert_close(made(states(made), question()), before[:, order])


@torch.no_grad()
@pytest.mark.parametrize("name", ["instruct_qformer", "context"])
def test_the_question_counts_but_not_its_padding(name: str) -> None:
    made, asked = connector(name), question()
    before = made(states(made), asked)
    ids = asked.ids.clone()
    ids[-1, -1] = ids[-1, -1] % 49 + 1
    torch.testing.assert_close(made(states(made), Question(ids, asked.mask)), before)
    ids[:, 0] = (ids[:, 0] + 11) % 49 + 1
    moved = (made(states(made), Question(ids, asked.mask)) - before).abs().amax(-1)
    assert bool((moved[:, 0] > 1e-4).all())
    if name == "context":
        assert not moved[:, 1:].any()  # the content is the image's alone


@torch.no_grad()
def test_words_see_the_image_through_queries_only() -> None:
    made = connector("instruct_qformer")
    seen = []
    for layer in made.qformer.encoder.layer:
        layer.register_forward_hook(
            lambda *call: seen.append(call[2][0] if isinstance(call[2], tuple) else call[2])
        )
    made(states(made), question())
    made(states(made, seed=9), question())
    first, other = seen[:3], seen[3:]
    assert (first[0][:, :6] - other[0][:, :6]).abs().max() > 1e-3
    torch.testing.assert_close(first[0][:, 6:], other[0][:, 6:], rtol=0, atol=0)
    assert (first[1][:, 6:] - other[1][:, 6:]).abs().max() > 1e-4


@torch.no_grad()
def test_context_is_what_its_queries_find_among_the_raw_patches() -> None:
    made, asked = connector("context"), question()
    given = states(made)
    looked = made.reader.qformer(
        input_ids=asked.ids,
        attention_mask=torch.cat([torch.ones(3, 6), asked.mask.float()], 1).long(),
        query_embeds=made.reader.query.expand(3, -1, -1),
        encoder_hidden_states=made.reader.norm(given),
    ).last_hidden_state[:, :6]
    query, patches = made.query_proj(looked), given[:, 1:]
    found = []
    for image in range(3):
        one = [
            (made.key_proj(patches[image]) @ query[image, i] / 4).softmax(0) @ patches[image]
            for i in range(6)
        ]
        found.append(made.value_proj(torch.stack(one).mean(0)))
    tokens = made(given, asked)
    torch.testing.assert_close(tokens[:, 0], torch.stack(found))
    torch.testing.assert_close(tokens[:, 2], made.mlp(patches[:, [2, 3, 6, 7]].mean(1)))


def test_costs_are_those_of_the_matrices_and_products() -> None:
    """Of 16 patches of 16 numbers, for a language model of width 32."""
    mlp = 16 * 32 + 32 * 32
    assert connector("projector").macs() == connector("nested_pool").macs() == 16 * mlp
    assert connector("ldp").macs() == 16 * mlp + 4 * 9 * 32
    half = 32 * 16 + 16 * 16
    attention = 4 * 16 * 16 * 2 + 16 * 16 * 16 * 2 + 2 * 16 * 16
    assert connector("token_packer").macs() == 4 * 16 * 16 + 2 * 16 * half + attention + 4 * mlp
    looking = 2 * 9 * 32 * 32 + 2 * 16 * 32 * 32 + 2 * 9 * 16 * 32
    assert connector("resampler").macs() == 16 * 16 * 32 + looking + 9 * 32 * 32
    layer = 4 * 6 * 8 * 8 + 2 * 6 * 6 * 8 + 2 * 6 * 8 * 16  # six queries of 8 numbers, among themselves
    cross = 2 * 6 * 8 * 8 + 2 * 17 * 16 * 8 + 2 * 6 * 17 * 8
    assert connector("qformer").macs() == 3 * layer + 2 * cross + 6 * 8 * 32


def count(name: str, sizes: Sizes, **fields: int) -> int:
    with torch.device("meta"):
        return sum(part.numel() for part in build(name, sizes, fields).parameters())


CLIP_7B, EVA_7B = Sizes(1024, 4096, 24), Sizes(1408, 4096, 16)


def test_real_sizes_have_the_official_numbers_of_parameters() -> None:
    mlp = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert count("projector", CLIP_7B) == count("nested_pool", CLIP_7B) == mlp == 20_979_712
    # Printed: 6.32 M (MobileVLM V2, table of projectors), for a language model of width 2048.
    assert count("ldp", Sizes(1024, 2048, 24)) == 6_316_032
    # 0.08 B in Qwen-VL's table, of which norm and matrix behind the attention are not part.
    assert count("resampler", Sizes(1664, 4096, 32)) - 4096**2 - 2 * 4096 == 75_005_952
    half = 4096 * 1024 + 1024 + 1024 * 1024 + 1024
    attention = 4 * (1024 * 1024 + 1024)
    assert count("token_packer", CLIP_7B) == 1024 * 1024 + 2 * half + 3 * 2048 + attention + mlp


def test_the_real_q_formers_are_those_of_transformers() -> None:
    from transformers import (
        Blip2Config,
        Blip2Model,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        LlamaConfig,
    )

    def own(model: nn.Module, *parts: str) -> int:
        return sum(
            one.numel() for name, one in model.named_parameters() if any(part in name for part in parts)
        )

    text = LlamaConfig(num_hidden_layers=1, hidden_size=4096, num_attention_heads=32, vocab_size=8)
    with torch.device("meta"):
        config = InstructBlipConfig(
            text_config=text, qformer_config={"vocab_size": 30523}, vision_config={"num_hidden_layers": 1}
        )
        instruct = InstructBlipForConditionalGeneration(config)
        blip = Blip2Model(Blip2Config(text_config=text, vision_config={"num_hidden_layers": 1}))
    parts = "qformer", "query_tokens", "language_projection", "post_layernorm"
    assert count("instruct_qformer", EVA_7B) == own(instruct, *parts)
    assert count("qformer", EVA_7B) == own(blip, *parts)
    reader = count("instruct_qformer", EVA_7B) - 769 * 4096
    projections = 769 * 1408 + 1409 * 1408 + 1409 * 4096
    mlp = 1409 * 4096 + 4097 * 4096
    assert count("context", EVA_7B) == reader + projections + mlp
