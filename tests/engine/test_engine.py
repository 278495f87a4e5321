"""The engine gives what `model.generate()` gives: same tokens, same run, for every method."""

import pandas as pd
import pytest
import torch
from transformers import LogitsProcessorList

from dyrate.engine.engine import Engine
from dyrate.engine.tokenwise import Tokenwise
from dyrate.errors import DyrateError
from dyrate.evaluation.decoding import decoding_spec, generation_arguments, seeded_sampling
from dyrate.methods.fastv import FastV
from dyrate.methods.fixed_prune import FixedPrune
from dyrate.methods.none import NoReduction
from dyrate.reduction import ReductionMethod
from tests.runtime.example_rules import Reader
from tests.runtime.method_table import CASES, ON_ENGINE, OUTSIDE, Case, prompts
from tests.runtime.test_contract import OTHERS, numbers_images_anew, subject_of
from tests.tiny import VISUAL_TOKENS, tiny_inputs, tiny_llava

REFUSED = {"visionpulse", "voco"}
ROWS = {"rows": [7, 3, 11], "images": [1, 2, 0]}


FIRST = {case.method.name: case for case in reversed(ON_ENGINE)}.values()
"""Each method in its first setting; further settings run tokenwise in the slow tier."""


@pytest.mark.parametrize(
    ("case", "tokenwise"),
    [
        pytest.param(
            case,
            tokenwise,
            id=f"{case.method.label}-{'tokenwise' * tokenwise}",
            marks=[pytest.mark.slow] * (tokenwise and case not in FIRST),
        )
        for case in ON_ENGINE
        for tokenwise in (False, True)
    ],
)
def test_tokens_and_run_are_those_of_generate(
    case: Case, tokenwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tokenwise`: as a short prompt runs on a GPU, with rows behind it that mean nothing."""
    monkeypatch.setattr(Tokenwise, "serves", lambda self, states: tokenwise)
    model, inputs = tiny_llava(), prompts(case, tiny_inputs(**ROWS))
    record, questions = [0, 3], Reader()
    with case.method(model, record, questions) as expected:
        tokens = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    found, run = Engine(model).generate(
        case.method, inputs, max_new_tokens=9, record=record, questions=questions
    )
    assert found.tolist() == tokens.tolist()
    assert run.kv_lengths.tolist() == expected.kv_lengths.tolist()
    for layer, rows in expected.kept.items():
        assert [row.tolist() for row in run.kept[layer]] == [row.tolist() for row in rows]
    assert torch.equal(run.decode_tokens_per_row, expected.decode_tokens_per_row)
    for layer, mass in expected.class_mass.items():
        torch.testing.assert_close(run.class_mass[layer], mass, rtol=0, atol=1e-5)
    pd.testing.assert_frame_equal(run.steps, expected.steps, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "case"), [other for other in OTHERS if other.values[1].method.name not in REFUSED]
)
def test_it_generates_with_every_family(name: str, case: Case) -> None:
    if numbers_images_anew(name, case):
        pytest.skip("refused: see the contract's test")
    subject = subject_of(name)
    inputs = prompts(case, subject.inputs)
    with case.method(subject.model, questions=Reader()) as expected:
        tokens = subject.model.generate(**inputs, max_new_tokens=9, do_sample=False)
    engine = Engine(subject.model)
    for _ in range(2):  # what one prompt leaves behind does not change the next one's tokens
        found, run = engine.generate(case.method, inputs, max_new_tokens=9, questions=Reader())
        assert found.tolist() == tokens.tolist()
        assert run.kv_lengths.tolist() == expected.kv_lengths.tolist()
        assert torch.equal(run.decode_tokens_per_row, expected.decode_tokens_per_row)


def test_what_the_engine_cannot_is_refused() -> None:
    refused = [case for case in CASES + OUTSIDE if case not in ON_ENGINE]
    assert {case.method.name for case in refused} == REFUSED
    for case in refused:
        with pytest.raises(DyrateError, match="which the graph engine cannot: use engine='transformers'"):
            Engine(tiny_llava()).generate(case.method, tiny_inputs(**ROWS), max_new_tokens=3)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return tiny_inputs(**ROWS)


@pytest.mark.parametrize("method", [NoReduction(), FixedPrune(layer=2, rate=0.5, mode="evict")])
def test_rows_end_as_they_do_in_generate(method: ReductionMethod, inputs: dict[str, torch.Tensor]) -> None:
    model = tiny_llava()
    with method(model):
        made = model.generate(**inputs, max_new_tokens=30, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    # Tokens that the rows make sooner or later: each row ends somewhere else.
    ends = [int(row[4 * index + 1]) for index, row in enumerate(made)]
    engine = Engine(model)
    for eos in (ends, ends[0], [ends[2], 59]):
        with method(model) as expected:
            tokens = model.generate(**inputs, max_new_tokens=30, do_sample=False, eos_token_id=eos)
        found, run = engine.generate(method, inputs, max_new_tokens=30, eos_token_id=eos)
        assert found.tolist() == tokens.tolist()
        assert torch.equal(run.kv_lengths, expected.kv_lengths)
        assert torch.equal(run.decode_tokens_per_row, expected.decode_tokens_per_row)


def test_sampling_draws_what_generate_draws(inputs: dict[str, torch.Tensor]) -> None:
    model, method = tiny_llava(), FastV(layer=2, rate=0.5)
    spec = decoding_spec({"name": "top_p"})

    def processors() -> LogitsProcessorList:
        found = seeded_sampling(spec, ["a", "b", "c"])
        assert found is not None
        return found

    with method(model):
        tokens = model.generate(
            **inputs, max_new_tokens=12, logits_processor=processors(), **generation_arguments(spec)
        )
    found, _ = Engine(model).generate(method, inputs, max_new_tokens=12, sampler=processors())
    assert found.tolist() == tokens.tolist()


def test_prompts_of_other_sizes_follow_each_other() -> None:
    model = tiny_llava()
    engine = Engine(model)
    method = FixedPrune(layer=2, rate=0.5)
    for prompt in (ROWS, {"rows": [30, 2, 1], "images": [2, 1, 3]}, {"rows": [4]}, ROWS):
        inputs = tiny_inputs(**prompt)
        with method(model):
            tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert engine.generate(method, inputs, max_new_tokens=6)[0].tolist() == tokens.tolist()


def test_the_model_stays_as_it_was(inputs: dict[str, torch.Tensor]) -> None:
    model = tiny_llava()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    for inference in (True, False):  # a second engine shares the first one's weights
        with torch.inference_mode(inference):
            engine = Engine(model)
        engine.generate(FastV(layer=2, rate=0.5), inputs, max_new_tokens=6)
    assert model.generate(**inputs, max_new_tokens=6, do_sample=False).tolist() == tokens.tolist()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    projections = model.model.language_model.layers[0].self_attn
    assert projections.q_proj.weight.untyped_storage().data_ptr() == (
        projections.v_proj.weight.untyped_storage().data_ptr()
    )


def test_pruned_prompts_take_less_memory(inputs: dict[str, torch.Tensor]) -> None:
    model = tiny_llava()
    whole = Engine(model).generate(NoReduction(), inputs, max_new_tokens=4)[1].kv_bytes
    pruned = Engine(model).generate(FastV(layer=2, rate=1.0), inputs, max_new_tokens=4)[1].kv_bytes
    assert pruned < 0.75 * whole


def test_prompts_without_their_images_are_refused(inputs: dict[str, torch.Tensor]) -> None:
    model = tiny_llava()
    engine = Engine(model)
    fewer = inputs | {"pixel_values": inputs["pixel_values"][1:]}
    images = len(inputs["pixel_values"])
    tokens, made = (VISUAL_TOKENS * count for count in (images, images - 1))
    with pytest.raises(DyrateError, match=f"{tokens} image tokens, but the images make {made} visual"):
        engine.generate(NoReduction(), fewer, max_new_tokens=2)
    assert "get_placeholder_mask" not in vars(model.model)
    engine.generate(NoReduction(), inputs, max_new_tokens=2)


def test_what_cannot_run_is_refused(inputs: dict[str, torch.Tensor]) -> None:
    model = tiny_llava()
    with pytest.raises(DyrateError, match="max_new_tokens=0: expected at least 1"):
        Engine(model).generate(NoReduction(), inputs, max_new_tokens=0)
    with pytest.raises(DyrateError, match="600 new ones: the model has 512 positions"):
        Engine(model).generate(NoReduction(), inputs, max_new_tokens=600)

    class Adapted(torch.nn.Linear):
        pass

    layer = model.model.language_model.layers[3].mlp
    layer.up_proj = Adapted(32, 64, bias=False)
    with pytest.raises(DyrateError, match=r"layers\.3\.mlp\.up_proj is a .*Adapted, not a plain Linear"):
        Engine(model)
