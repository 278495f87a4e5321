"""Attention stays SDPA, one query row is recomputed, and other text models and precisions work."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from dyrate import VTW, Downsample, DyRate, FastV, NoReduction, TextOnly
from dyrate.errors import DyrateError
from dyrate.reduction import ReductionMethod
from tests.runtime.probes import EvictSome, Pyramid, SelectSome
from tests.runtime.tiny_predictors import tiny_predictor
from tests.tiny import IMAGE, NUM_LAYERS, row_of, tiny_inputs, tiny_llava

METHODS = [
    FastV(),
    VTW(layer=3, positions="contiguous"),
    Downsample(),
    EvictSome(),
    SelectSome(),
    Pyramid(),
    DyRate(predictor=tiny_predictor("evicting", kind="gru", ranking="linear"), mode="evict"),
    DyRate(predictor=tiny_predictor("selecting", lagged=(3,), ranking="mlp"), prune_prefill=False),
]


def test_every_layer_runs_sdpa_and_without_a_mask_where_rows_are_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = tiny_llava(), []
    original = functional.scaled_dot_product_attention

    def counted(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        calls.append((query.shape[2], key.shape[2], attn_mask, options.get("is_causal")))
        return original(query, key, value, attn_mask=attn_mask, **options)

    with FastV(layer=2, rate=0.5)(model):
        inputs = tiny_inputs([7, 7])
        monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    width = inputs["input_ids"].shape[1]
    text = [call for call in calls if call[1] not in (16, 17)]  # without the vision tower
    prefill = [(width, width, None, True)] * 2 + [(width - 8, width - 8, None, True)] * 4
    decode = [(1, width + 1, None, False)] * 2 + [(1, width - 7, None, False)] * 4
    assert text == prefill + decode


def test_reading_attention_recomputes_one_query_row_of_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    from dyrate import attention

    model, queries = tiny_llava(), []
    original = attention.newest_attention

    def counted(query: Tensor, *args: Any, **kwargs: Any) -> Any:
        queries.append(tuple(query.shape))
        return original(query, *args, **kwargs)

    monkeypatch.setattr(attention, "newest_attention", counted)
    with FastV(layer=2)(model):
        model.generate(**tiny_inputs([7, 3]), max_new_tokens=3, do_sample=False)
    assert queries == [(2, 4, 1, 8)] * 3
    queries.clear()
    with VTW(layer=2)(model):
        model.generate(**tiny_inputs([7, 3]), max_new_tokens=3, do_sample=False)
    assert queries == []


@pytest.mark.parametrize("text", ["mistral", "qwen2"])
@pytest.mark.parametrize("method", [*METHODS, TextOnly()], ids=lambda method: method.label)
def test_other_text_models_give_each_row_what_it_gets_alone(text: str, method: ReductionMethod) -> None:
    model, inputs = tiny_llava(text=text, kv_heads=2), tiny_inputs([7, 3])
    stock = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        with NoReduction()(model):
            assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), stock)
        with method(model) as run:
            batch = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            lengths = run.kv_lengths
            for row in range(2):
                alone = model.generate(**row_of(inputs, row), max_new_tokens=4, do_sample=False)
                assert torch.equal(alone[0, -4:], batch[row, -4:])
                assert torch.equal(run.kv_lengths[:, 0], lengths[:, row])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_with_statistics_in_float32(method: ReductionMethod, dtype: torch.dtype) -> None:
    model, inputs = tiny_llava().to(dtype), tiny_inputs([7, 3])
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    with torch.no_grad(), method(model, record=[3]) as run:
        output = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    assert all(step.isfinite().all() for step in output.logits)
    assert run.class_mass[3].dtype == torch.float32
    torch.testing.assert_close(run.class_mass[3].sum(-1), torch.ones(3, 2, 4))
    assert output.past_key_values.layers[0].keys.dtype == dtype


def test_text_only_is_the_text_model_on_the_prompt_without_the_image() -> None:
    model, inputs = tiny_llava(), tiny_inputs([7])
    bare = inputs["input_ids"][inputs["input_ids"] != IMAGE][None]
    stock = model.generate(input_ids=bare, max_new_tokens=5, do_sample=False)
    with TextOnly()(model) as run:
        output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(output[:, -5:], stock[:, -5:])
    assert (run.kv_lengths == bare.shape[1] + 4).all()


def test_downsampling_is_a_smaller_image_in_a_shorter_prompt() -> None:
    """0.4 of 4 x 4 patches leaves 10, of which 3 x 3 is nearest to square."""
    model, inputs = tiny_llava(), tiny_inputs([7])
    seen = []
    hook = model.model.vision_tower.embeddings.register_forward_pre_hook(
        lambda module, args: seen.append(tuple(args[0].shape))
    )
    with Downsample(rate=0.4)(model) as run:
        model.generate(**inputs, max_new_tokens=2)
    hook.remove()
    assert seen == [(1, 3, 12, 12)]
    assert len(run.kept) == NUM_LAYERS
    # Each feature stands in the place of the 4 x 4 grid that it is nearest to.
    places = [4 * row + column for row in (0, 2, 3) for column in (0, 2, 3)]
    assert all(rows[0].tolist() == places for rows in run.kept.values())
    assert run.steps.retained.tolist() == [9 / 16] * 2


READ_BACK = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


@pytest.mark.parametrize(
    "method",
    [NoReduction(), FastV(), VTW(layer=3, positions="contiguous"), Downsample(), Pyramid()],
    ids=lambda m: m.label,
)
def test_a_decode_step_reads_nothing_back_to_the_host(
    method: ReductionMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows differ, so masks, statistics and positions are all in play; beams move between the steps."""
    model, inputs = tiny_llava(), tiny_inputs([7, 3])
    token, moved = torch.tensor([[5], [6]]), torch.tensor([1, 0])

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tensor was read back to the host")

    with torch.no_grad(), method(model) as run:
        cache = model(**inputs).past_key_values
        with monkeypatch.context() as patch:
            for name in READ_BACK:
                patch.setattr(torch.Tensor, name, forbidden)
            for _ in range(3):
                cache.reorder_cache(moved)
                model(input_ids=token, past_key_values=cache)
    assert len(run.steps) == 8


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False], ids=["compiled inside", "compiled before"])
@pytest.mark.parametrize("method", [FastV(layer=1), Downsample()], ids=lambda method: method.name)
def test_compiled_models_are_reduced_inside_a_block_and_whole_outside(
    method: ReductionMethod, inside: bool
) -> None:
    torch._dynamo.reset()
    model, inputs = tiny_llava(num_layers=2), tiny_inputs([7, 3])
    step = {"input_ids": inputs["input_ids"][:, :1]}

    def two_steps() -> list[Tensor]:
        prompt = model(**inputs)
        return [prompt.logits, model(**step, past_key_values=prompt.past_key_values).logits]

    with torch.no_grad():
        stock = model(**inputs).logits
        with method(model):
            expected = two_steps()
        if not inside:
            model.compile(backend="eager")
            assert torch.equal(model(**inputs).logits, stock)
        with method(model):
            if inside:
                model.compile(backend="eager")
            assert all(map(torch.equal, two_steps(), expected))
        assert torch.equal(model(**inputs).logits, stock)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn", "dynamic", "longrope"])
def test_rotary_embeddings_that_depend_on_the_batch_are_refused(kind: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
        "yarn": {"original_max_position_embeddings": 16},
        "longrope": {
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 24,
        },
    }
    config = tiny_llava().config
    scaling = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
    config.text_config.rope_parameters = {**scaling, **options.get(kind, {})}
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = 0
    inputs = tiny_inputs([7, 3])
    if kind in ("dynamic", "longrope"):
        with pytest.raises(DyrateError, match=f"rotary embeddings of type '{kind}'"):
            FastV()(model)
        return
    stock = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    with NoReduction()(model):
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), stock)
