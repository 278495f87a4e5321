"""Numbers that are not finite fail the generation by name, row and step, in both engines."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate.engine.engine import Engine
from dyrate.finite import NotFiniteError, witness
from dyrate.methods.dyrate import DyRate
from dyrate.methods.fastv import FastV
from dyrate.methods.none import NoReduction
from dyrate.methods.vtw import VTW
from dyrate.reduction import ReductionMethod
from tests.runtime.tiny_predictors import tiny_predictor
from tests.tiny import row_of, tiny_inputs, tiny_llava

Generate = Callable[..., Any]
BAD = [float("nan"), float("inf"), float("-inf")]
PLACES = [
    "lm_head",
    "model.language_model.norm",
    "model.language_model.layers.0.self_attn.k_proj",
    "model.language_model.layers.5.mlp.down_proj",
    "model.multi_modal_projector.linear_2",
    "model.vision_tower.encoder.layers.0.self_attn.v_proj",
]


def by_transformers(model: Any, method: ReductionMethod, inputs: dict[str, Tensor], **options: Any) -> None:
    with method(model):
        model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)


def by_the_engine(model: Any, method: ReductionMethod, inputs: dict[str, Tensor]) -> None:
    Engine(model).generate(method, inputs, max_new_tokens=6)


ENGINES = [by_transformers, by_the_engine]


def test_no_numbers_are_all_finite() -> None:
    assert witness(torch.empty(2, 0)).tolist() == witness(torch.empty(2, 3, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("generate", ENGINES)
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", PLACES)
def test_one_number_of_one_weight_is_noticed(generate: Generate, value: float, place: str) -> None:
    model, inputs = tiny_llava(), tiny_inputs([7, 3])
    with torch.no_grad():
        model.get_submodule(place).weight.view(-1)[3] = value
    with pytest.raises(NotFiniteError, match=r"VTW \(K=3\) in float32: the .* of row 0 at step 0 are NaN"):
        generate(model, VTW(layer=3), inputs)


@pytest.mark.parametrize("generate", ENGINES)
@pytest.mark.parametrize("method", [NoReduction(), FastV(layer=2, rate=0.5)], ids=lambda m: m.label)
def test_products_that_do_not_fit_the_dtype_are_noticed(generate: Generate, method: ReductionMethod) -> None:
    model, inputs = tiny_llava().to(torch.float16), tiny_inputs([7, 3])
    inputs["pixel_values"] = inputs["pixel_values"].half()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e5)
    with pytest.raises(NotFiniteError, match=r"in float16.* NaN or infinite.*float32"):
        generate(model, method, inputs)


@pytest.mark.parametrize("generate", ENGINES)
def test_row_and_step_are_named(generate: Generate) -> None:
    """The second row's third new token has an embedding of NaN, which is fed at step 3."""
    model, inputs = tiny_llava(), tiny_inputs([7, 3])
    with NoReduction()(model):
        made = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    token = int(made[1, 2])
    assert token not in made[0]
    assert token not in made[1, :2]
    assert token not in inputs["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    with pytest.raises(NotFiniteError, match="of row 1 at step 3 are NaN"):
        generate(model, NoReduction(), inputs)


@pytest.mark.parametrize("generate", ENGINES)
@pytest.mark.parametrize("output", ["classes", "ordinal"])
@pytest.mark.parametrize("part", ["rate.", "decode_ranker."])
def test_a_predictor_that_predicts_nothing_fails(generate: Generate, output: str, part: str) -> None:
    folder = tiny_predictor(f"nan-{output}", ranking="mlp", output=output)
    method = DyRate(layer=2, predictor=folder, prune_prefill=part == "rate.")
    for name, parameter in method._learned.named_parameters():
        if name.startswith(part):
            parameter.data.fill_(1e38)
    named = "rate" if part == "rate." else "(learned ranking|scores)"
    with pytest.raises(NotFiniteError, match=f"the {named} of row 0"):
        generate(tiny_llava(), method, tiny_inputs([7, 3]))


@pytest.mark.parametrize("options", [{"do_sample": True}, {"num_beams": 3}], ids=str)
def test_sampling_and_beams_fail_by_our_error(options: dict[str, Any]) -> None:
    model, inputs = tiny_llava(), tiny_inputs([7, 3])
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(NotFiniteError, match="the logits of row 0 at step 0"), NoReduction()(model):
        model.generate(**inputs, max_new_tokens=6, **options)


def test_a_forward_by_itself_fails_at_the_next_prompt_or_the_end_of_the_block() -> None:
    model, inputs = tiny_llava(), row_of(tiny_inputs([7]), 0)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(NotFiniteError, match="step 0"), NoReduction()(model):  # noqa: PT012 - when it leaves
        model(**inputs)
        with pytest.raises(NotFiniteError, match="step 0"):
            model(**inputs)
        model(**inputs)
    model(**inputs)  # the block is left


def test_another_error_is_not_hidden() -> None:
    model, inputs = tiny_llava(), tiny_inputs([7])
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(KeyError, match="mine"), NoReduction()(model):  # noqa: PT012 - the block's own error
        model(**inputs)
        raise KeyError("mine")
