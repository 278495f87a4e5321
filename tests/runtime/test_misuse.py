"""Whoever goes past a block, or shares one, gets an error or the right answer: never another answer."""

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from dyrate import VTW, FastV, NoReduction, TextOnly
from dyrate.errors import DyrateError
from tests.tiny import tiny_inputs, tiny_llava


@pytest.fixture
def model() -> Any:
    return tiny_llava()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return tiny_inputs([7, 3])


def refused(message: str) -> Any:
    return pytest.raises(DyrateError, match=re.escape(message))


def generated(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    return model.generate(**inputs, **{"max_new_tokens": 4, "do_sample": False, **options})


ATTENTION: dict[str, Callable[[Any], Any]] = {
    "all": lambda model: model.set_attn_implementation("sdpa"),
    "text": lambda model: model.set_attn_implementation({"text_config": "eager"}),
    "config": lambda model: setattr(model.config.text_config, "_attn_implementation", "sdpa"),
    "one layer": lambda model: setattr(
        model.model.language_model.layers[3].self_attn, "config", tiny_llava().config.text_config
    ),
}


@pytest.mark.parametrize("how", ATTENTION)
def test_an_attention_set_inside_is_refused(how: str, model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        cache = model(**inputs).past_key_values
        with refused("set inside the with block"):
            ATTENTION[how](model)
            model(input_ids=inputs["input_ids"][:, :1], past_key_values=cache)
    assert model.config.text_config._attn_implementation == "sdpa"


def test_the_vision_tower_may_get_another_attention_inside(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        expected = generated(model, inputs)
        model.set_attn_implementation({"vision_config": "eager"})
        assert torch.equal(generated(model, inputs), expected)


def test_modules_with_configs_of_their_own_are_reached(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        expected = generated(model, inputs)
    attention = model.model.language_model.layers[3].self_attn
    attention.config = copy.deepcopy(attention.config)
    model.model.language_model.config = copy.deepcopy(model.config.text_config)
    with FastV()(model):
        assert torch.equal(generated(model, inputs), expected)
    assert attention.config._attn_implementation == "sdpa"


def test_an_attention_that_passes_ours_by_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    attention = model.model.language_model.layers[3].self_attn
    attention.forward = lambda hidden_states, **options: (hidden_states, None)
    for method in (NoReduction(), FastV(layer=5)):
        with method(model), refused("layers [3] ran without the attention"):
            model(**inputs)


def test_layers_that_the_config_leaves_out_are_not_there(model: Any, inputs: dict[str, Tensor]) -> None:
    model.model.language_model.config.num_hidden_layers = 4
    stock = generated(model, inputs)
    with NoReduction()(model) as run:
        assert torch.equal(generated(model, inputs), stock)
        assert run.kv_lengths.shape == (4, 2)
    with refused("the model has layers 0..3"):
        FastV(layer=4)(model)


ENTRIES: dict[str, Callable[[Any], Any]] = {
    "generate_batch": lambda model: model.generate_batch([[1, 2, 3]], max_new_tokens=2),
    "init_continuous_batching": lambda model: model.init_continuous_batching(),
    "continuous_batching_context_manager": lambda model: model.continuous_batching_context_manager(),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_continuous_batching_is_refused(entry: str, model: Any) -> None:
    with FastV()(model), refused(f"{entry}() is not supported"):
        ENTRIES[entry](model)
    assert entry not in vars(model)


def test_a_generate_from_before_the_block_is_the_same(model: Any, inputs: dict[str, Tensor]) -> None:
    before = model.generate
    with FastV()(model):
        expected = generated(model, inputs)
        options = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(before(**inputs, **options), expected)
        assert torch.equal(type(model).generate(model, **inputs, **options), expected)
        for extra in ({"prefill_chunk_size": 8}, {"use_cache": False}, {"guidance_scale": 1.5}):
            with pytest.raises(DyrateError):
                before(**inputs, **options, **extra)
        with refused("cannot be cropped"):
            before(**tiny_inputs([7]), **options, prompt_lookup_num_tokens=2)


def test_an_empty_cache_and_configs_without_one_are_accepted(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        expected = generated(model, inputs)
        assert torch.equal(generated(model, inputs, past_key_values=DynamicCache()), expected)
        config = GenerationConfig(use_cache=False, max_new_tokens=4)
        assert torch.equal(generated(model, inputs, generation_config=config), expected)
        model.generation_config.use_cache = False
        assert torch.equal(generated(model, inputs), expected)


def test_a_cache_with_tokens_is_refused_by_generate(model: Any, inputs: dict[str, Tensor]) -> None:
    filled = model(**inputs).past_key_values
    with FastV()(model), refused("tokens that were not reduced"):
        generated(model, inputs, past_key_values=filled)


@pytest.mark.parametrize("part", ["", "text_config"])
def test_attentions_that_a_config_asks_for_are_refused(
    part: str, model: Any, inputs: dict[str, Tensor]
) -> None:
    model.set_attn_implementation("eager")
    config = getattr(model.config, part) if part else model.config
    config.output_attentions = True
    with FastV()(model):
        with refused("output_attentions"):
            model(**inputs)
        model(**inputs, output_attentions=False)


@pytest.mark.parametrize("method", [TextOnly(), FastV(), NoReduction()], ids=lambda method: method.name)
def test_a_reduced_cache_serves_nobody_else(method: Any, model: Any, inputs: dict[str, Tensor]) -> None:
    step, other = inputs["input_ids"][:, :1], tiny_llava(1)
    message = "its own model inside its own with block"
    with method(model):
        cache = model(**inputs).past_key_values
        with refused(message):
            other(input_ids=step, past_key_values=cache)
        with method(other), refused("belongs to another run"):
            other(input_ids=step, past_key_values=cache)
        model(input_ids=step, past_key_values=cache)
    for whoever in (model, model.model.language_model, other):
        with refused(message):
            whoever(input_ids=step, past_key_values=cache)


def test_a_cache_whose_step_failed_is_not_gone_on_with(model: Any, inputs: dict[str, Tensor]) -> None:
    step = inputs["input_ids"][:, :1]

    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory")

    with torch.no_grad(), FastV()(model):
        expected = model(**inputs).logits
        cache = model(**inputs).past_key_values
        hook = model.model.language_model.layers[4].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(input_ids=step, past_key_values=cache)
        hook.remove()
        with refused("failed half-way"):
            model(input_ids=step, past_key_values=cache)
        assert torch.equal(model(**inputs).logits, expected)


def test_moving_rows_of_an_old_cache_leaves_the_run_alone(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model) as run:
        old = model(**inputs).past_key_values
        model(**inputs)
        kept = [row.tolist() for row in run.kept[3]]
        old.reorder_cache(torch.tensor([1, 0]))
        assert [row.tolist() for row in run.kept[3]] == kept
    old.reorder_cache(torch.tensor([1, 0]))


@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps], ids=lambda how: how.__name__)
def test_a_model_is_not_copied_inside(how: Callable[[Any], Any], model: Any) -> None:
    with FastV()(model), refused("cannot be copied or pickled inside"):
        how(model)
    how(model)


def test_one_block_may_be_entered_again_and_one_method_serves_two_models(inputs: dict[str, Tensor]) -> None:
    method, models = FastV(), [tiny_llava(), tiny_llava(1)]
    blocks = [method(model) for model in models]
    alone = []
    for block, model in zip(blocks, models, strict=True):
        with block:
            alone.append(generated(model, inputs))
            with refused("cannot be nested"):
                block.__enter__()
    for block in blocks:
        block.__enter__()
    for model, expected in zip(models, alone, strict=True):
        assert torch.equal(generated(model, inputs), expected)
    for block in blocks:  # Not in the reverse order.
        block.__exit__(None, None, None)
    assert all(model.config.text_config._attn_implementation == "sdpa" for model in models)


def test_a_block_that_a_generator_holds_open_is_seen(model: Any, inputs: dict[str, Tensor]) -> None:
    def held() -> Iterator[Tensor]:
        with FastV()(model):
            yield generated(model, inputs)

    holder = held()
    next(holder)
    with refused("cannot be nested"), VTW(layer=2)(model):
        pass
    holder.close()
    with VTW(layer=2)(model):
        generated(model, inputs)


def test_a_model_that_shares_the_config_is_refused_inside(model: Any, inputs: dict[str, Tensor]) -> None:
    other = type(model)(model.config).eval()
    with FastV()(model):
        with refused("shares its config"):
            other(**inputs)
        with refused("shares its config"), FastV()(other):
            pass


@pytest.mark.filterwarnings("ignore")
def test_tracing_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        with refused("cannot be traced or exported"):
            torch.export.export(model, (), kwargs=dict(inputs), strict=False)
        with refused("cannot be traced or exported"):
            torch.jit.trace(model, example_kwarg_inputs=dict(inputs), strict=False)
