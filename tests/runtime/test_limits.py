"""What is not supported is refused, each with its own message; what was touched is put back."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from dyrate import VTW, Downsample, FastV, NoReduction, ReductionMethod
from dyrate.errors import DyrateError
from tests.runtime.probes import Lagging
from tests.tiny import tiny_inputs, tiny_llava


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return tiny_inputs([7, 3])


def refused(message: str) -> Any:
    return pytest.raises(DyrateError, match=re.escape(message))


GENERATE = {
    "static cache": ({"cache_implementation": "static"}, "cache_implementation='static'"),
    "quantised cache": ({"cache_implementation": "quantized"}, "cache_implementation='quantized'"),
    "prefill chunks": ({"prefill_chunk_size": 8}, "each chunk by itself"),
    "prompt lookup": ({"prompt_lookup_num_tokens": 2}, "rolls the cache back"),
    "no cache": ({"use_cache": False}, "use_cache=False"),
    "guidance": ({"guidance_scale": 1.5}, "classifier-free guidance runs a second prompt"),
    "negative prompt": ({"negative_prompt_ids": torch.ones(2, 3, dtype=torch.long)}, "leave it out"),
    "attentions": ({"output_attentions": True, "return_dict_in_generate": True}, "run.class_mass"),
}


@pytest.mark.parametrize("case", GENERATE)
def test_generate_refuses(case: str, model: Any, inputs: dict[str, Tensor]) -> None:
    options, message = GENERATE[case]
    with FastV()(model), refused(message):
        model.generate(**inputs, max_new_tokens=2, **options)


def test_generate_refuses_what_a_generation_config_asks_for(model: Any, inputs: dict[str, Tensor]) -> None:
    from transformers import GenerationConfig

    config = GenerationConfig(cache_implementation="static", max_new_tokens=2)
    with FastV()(model), refused("cache_implementation='static'"):
        model.generate(**inputs, generation_config=config)


def test_a_guidance_scale_that_asks_for_no_guidance_is_accepted(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    with FastV()(model):
        plain = model.generate(**inputs, max_new_tokens=2)
        assert torch.equal(model.generate(**inputs, max_new_tokens=2, guidance_scale=1.0), plain)


def test_generate_refuses_an_assistant(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model), refused("rolls the cache back"):
        model.generate(**inputs, assistant_model=model, max_new_tokens=2)


def test_generate_refuses_embeddings(model: Any, inputs: dict[str, Tensor]) -> None:
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    with FastV()(model), refused("read off input_ids"):
        model.generate(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"], max_new_tokens=2)


FORWARD: dict[str, tuple[Callable[[Any, dict[str, Tensor]], dict[str, Any]], str]] = {
    "embeddings": (
        lambda model, inputs: {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])},
        "inputs_embeds without input_ids",
    ),
    "no cache": (lambda model, inputs: {**inputs, "use_cache": False}, "use_cache=False"),
    "attentions": (lambda model, inputs: {**inputs, "output_attentions": True}, "output_attentions"),
    "labels": (lambda model, inputs: {**inputs, "labels": inputs["input_ids"]}, "labels"),
    "static cache": (
        lambda model, inputs: {
            **inputs,
            "past_key_values": StaticCache(model.model.language_model.config, 64),
        },
        "a KV cache of type StaticCache",
    ),
    "right padding": (
        lambda model, inputs: {**inputs, "attention_mask": inputs["attention_mask"].flip(1)},
        "pad on the left",
    ),
    "4-D mask": (
        lambda model, inputs: {**inputs, "attention_mask": torch.ones(2, 1, 30, 30)},
        "not a 4-D one",
    ),
}


@pytest.mark.parametrize("case", FORWARD)
def test_forward_refuses(case: str, model: Any, inputs: dict[str, Tensor]) -> None:
    arguments, message = FORWARD[case]
    with FastV()(model), refused(message):
        model(**arguments(model, inputs))


def test_checkpointing_is_refused_where_it_would_drop_the_cache(inputs: dict[str, Tensor]) -> None:
    model = tiny_llava()
    with FastV()(model.train()) as run:
        model(**inputs)
        # transformers 5.23 has the first name, 5.17 the second alone.
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable()
        with refused("gradient checkpointing in train mode"):
            model(**inputs)
        model.eval()  # Here nothing is checkpointed.
        cache = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True).past_key_values
        assert [layer.keys.shape[2] for layer in cache.layers] == run.kv_lengths.max(dim=1).values.tolist()


def test_two_tokens_after_the_prefill_are_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model), refused("only one new token per row"):
        cache = model(**inputs).past_key_values
        model(input_ids=inputs["input_ids"][:, :2], past_key_values=cache)


def test_a_mask_that_does_not_fit_the_step_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model), refused("then a 1 for every token generated since"):
        cache = model(**inputs).past_key_values
        model(
            input_ids=inputs["input_ids"][:, :1],
            past_key_values=cache,
            attention_mask=inputs["attention_mask"],
        )


def test_a_mask_that_hides_prompt_tokens_after_the_prefill_has_no_effect(
    model: Any, inputs: dict[str, Tensor]
) -> None:
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], dim=1)
    hidden = mask.clone()
    hidden[:, -8:-2] = 0
    with torch.no_grad(), FastV()(model):
        first, second = (
            model(
                input_ids=inputs["input_ids"][:, :1],
                past_key_values=model(**inputs).past_key_values,
                attention_mask=mask_of_step,
            ).logits
            for mask_of_step in (mask, hidden)
        )
    assert torch.equal(first, second)


def test_a_cache_with_unreduced_tokens_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    cache = model(**inputs).past_key_values
    with FastV()(model), refused("tokens that were not reduced"):
        model(input_ids=inputs["input_ids"][:, :1], past_key_values=cache)


def test_the_cache_that_was_replaced_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    mine = DynamicCache()
    with FastV()(model), refused("pass on the output's past_key_values"):
        model(**inputs, past_key_values=mine)
        model(input_ids=inputs["input_ids"][:, :1], past_key_values=mine)


def test_a_reduced_cache_is_not_continued_by_a_second_generate(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        cache = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True).past_key_values
        with refused("cannot be continued by a second generate()"):
            model.generate(input_ids=inputs["input_ids"], past_key_values=cache, max_new_tokens=2)
    with FastV()(model), refused("belongs to another run"):
        model(input_ids=inputs["input_ids"][:, :1], past_key_values=cache)


def test_a_reduced_cache_cannot_be_cropped(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        cache = model(**inputs).past_key_values
    for rollback in (lambda: cache.crop(-1), cache.activate_past_recording):
        with refused("cannot be cropped"):
            rollback()
    assert not cache.is_croppable


def test_blocks_cannot_be_nested(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        with refused("blocks cannot be nested"), VTW(layer=2)(model):
            pass
        model.generate(**inputs, max_new_tokens=2)  # The outer block still works.


@pytest.mark.parametrize("method", [FastV(layer=7), VTW(layer=6)], ids=str)
def test_layers_that_the_model_does_not_have_are_refused(method: ReductionMethod, model: Any) -> None:
    with refused("the model has layers 0..5"):
        method(model)
    with refused("there is no layer 6"):
        NoReduction()(model, record=[6])


def test_other_model_families_are_refused() -> None:
    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
    )
    with refused("adapter for LlamaForCausalLM; supported: InternVLForConditionalGeneration, Llava"):
        FastV()(LlamaForCausalLM(config))


def test_sliding_windows_and_other_text_models_are_refused() -> None:
    model = tiny_llava(text="mistral")
    model.model.language_model.config.sliding_window = 8
    with refused("sliding-window attention"):
        FastV()(model)
    model.model.language_model.config.model_type = "gemma"
    with refused("supported text models: llama"):
        FastV()(model)


def test_calls_that_pass_the_hooks_by_are_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model):
        with refused("without passing the hooks"):
            model.forward(**inputs)
        with refused("without passing the hooks"):
            model.model.language_model(input_ids=inputs["input_ids"][:, :3])


def test_features_made_outside_the_block_are_refused_by_encoder_methods(
    model: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = model.model.get_image_features(inputs["pixel_values"])
    monkeypatch.setattr(model.model, "get_image_features", lambda *args, **kwargs: features)
    with Downsample(rate=0.5)(model), refused("pass pixel_values"):
        model(**inputs)


def test_downsampling_to_nothing_is_refused(model: Any, inputs: dict[str, Tensor]) -> None:
    with Downsample(rate=1.0)(model), refused("text_only"):
        model(**inputs)


@dataclass(frozen=True)
class WrongShape(FastV):
    def prefill(self, view: Any) -> Tensor:
        return view.attention[1].scores


def test_a_method_that_returns_no_mask_is_told(model: Any, inputs: dict[str, Tensor]) -> None:
    with WrongShape()(model), refused("torch.bool of shape (2, 16)"):
        model(**inputs)


def test_an_empty_run_says_so(model: Any) -> None:
    with FastV()(model) as run, refused("call model.generate(...) inside the with block"):
        _ = run.kept


def state_of(model: Any) -> list[Any]:
    """Everything that attaching changes."""
    hooks = [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in model.modules()]
    return [hooks, model.model.language_model.config._attn_implementation, sorted(vars(model))]


@pytest.mark.parametrize("method", [FastV(), VTW(layer=3), Downsample(), Lagging()], ids=lambda m: m.label)
def test_outside_the_block_the_model_is_untouched(method: Any, model: Any, inputs: dict[str, Tensor]) -> None:
    def logits() -> Tensor:
        with torch.no_grad():
            return model(**inputs).logits

    expected, before = logits(), state_of(model)
    with method(model):
        model.generate(**inputs, max_new_tokens=3)
    assert state_of(model) == before
    assert torch.equal(logits(), expected)
    with pytest.raises(DyrateError), method(model):
        model(**inputs, labels=inputs["input_ids"])
    assert state_of(model) == before
    assert torch.equal(logits(), expected)


@pytest.mark.parametrize("part", ["embeddings", "layer 3", "tower", "projector", "head"])
def test_a_model_of_which_a_part_is_on_no_device_is_refused(part: str) -> None:
    model = tiny_llava()
    parts = {
        "embeddings": model.get_input_embeddings(),
        "layer 3": model.model.language_model.layers[3],
        "tower": model.model.vision_tower,
        "projector": model.model.multi_modal_projector,
        "head": model.lm_head,
    }
    parts[part].to("meta")
    with refused("parts of the model are on no device"):
        FastV()(model)
