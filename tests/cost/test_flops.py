"""The ledger equals PyTorch's own counter on what really ran, and the sums that papers print."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dyrate.cost.flops import CONVENTIONS, Flops, count, kv_bytes, scope
from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.cost.work import Phases, Work, schedule, work_of
from dyrate.registry import load_method
from tests.runtime.example_rules import Reader
from tests.runtime.method_table import CASES, ORIGINAL, Case, prompts
from tests.tiny import VISUAL_TOKENS, tiny_inputs, tiny_llava
from tests.tiny_families import TINY

NEW_TOKENS = 5


def counted(model, method, inputs) -> tuple[dict[str, int], Phases]:
    """PyTorch's count by part of the model, and our record of the same generation."""
    # Only the plain backend's products are known to the counter on CPU.
    attached = method(model, questions=Reader())
    with sdpa_kernel(SDPBackend.MATH), attached as run, FlopCounterMode(display=False) as counter:
        model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    by_module = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    return by_module, work_of(run, method)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method.label)
def test_what_ran_is_what_pytorch_counts(case):
    model = tiny_llava(kv_heads=2)

    by_module, phases = counted(model, case.method, prompts(case, tiny_inputs([7])))

    ours = count(scope(phases, "cached"), ModelShape.of(model.config), CONVENTIONS["flops"])
    assert ours.total == by_module["Global"]
    assert ours.vision == by_module["CLIPVisionModel"]
    assert ours.projector == by_module["LlavaMultiModalProjector"]
    assert ours.head == by_module["LlavaForConditionalGeneration.lm_head"]


@pytest.mark.parametrize("name", TINY)
def test_what_ran_in_other_families_is_what_pytorch_counts(name):
    """Of two images of a prompt, in tiles, windows or as they are; keys and values of grouped heads."""
    subject, method = TINY[name].subject, load_method({"name": "fastv", "layer": 2, "rate": 0.5})
    model, shape = subject.model, ModelShape.of(subject.model.config)

    by_module, phases = counted(model, method, subject.rows[1])

    ours = count(scope(phases, "cached"), shape, CONVENTIONS["flops"])
    assert ours.total == by_module["Global"]
    with method(model) as run:
        model.generate(**subject.rows[1], max_new_tokens=1)
    assert run.kv_bytes == kv_bytes(run.kv_lengths[:, 0].tolist(), shape.text, 4)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] * (name != "visionzip"))
        for name, case in ORIGINAL.items()
        if not case.method.needs(6).question
    ],
)
@pytest.mark.parametrize("name", TINY)
def test_what_was_read_of_other_towers_is_what_pytorch_counts(name: str, case: Case) -> None:
    subject = TINY[name].subject

    by_module, phases = counted(subject.model, case.method, subject.rows[1])

    shape = ModelShape.of(subject.model.config)
    assert count(scope(phases, "cached"), shape, CONVENTIONS["flops"]).total == by_module["Global"]


def test_a_batch_costs_what_its_rows_cost_alone():
    model, method = tiny_llava(), load_method({"name": "fastv", "layer": 2, "rate": 0.5})
    alone = [counted(model, method, tiny_inputs([length]))[1] for length in (7, 12)]

    assert counted(model, method, tiny_inputs([7, 12]))[1] == alone[0] + alone[1]


def test_steps_after_a_rows_end_do_not_count():
    model, method = tiny_llava(), load_method({"name": "fastv", "layer": 2, "rate": 0.5})
    inputs = tiny_inputs([7])
    with method(model) as run:
        model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)

    cut = work_of(run, method, steps=torch.tensor([2]))

    assert (cut.steps, work_of(run, method).steps) == (2, NEW_TOKENS - 1)
    with method(model) as run:
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert cut == work_of(run, method)


def test_an_answer_of_one_token_has_no_decode_steps():
    model, method = tiny_llava(), load_method({"name": "fastv", "layer": 2, "rate": 0.5})
    with method(model) as run:
        model.generate(**tiny_inputs([7, 4]), max_new_tokens=1, do_sample=False)

    phases = work_of(run, method)

    assert phases.steps == 0
    assert phases.decode == phases.recompute == Work.none(6)
    assert phases.prefill.scored == run.text_tokens.sum() + 2 * VISUAL_TOKENS


@pytest.mark.parametrize(
    "spec", [{"name": "none"}, {"name": "fastv", "layer": 2, "rate": 0.5}, {"name": "vtw", "layer": 3}]
)
def test_a_schedule_is_the_work_of_a_run(spec):
    model, method = tiny_llava(), load_method(spec)
    _, phases = counted(model, method, tiny_inputs([7]))
    inputs = tiny_inputs([7])
    text = inputs["input_ids"].shape[1] - VISUAL_TOKENS
    layer, kept = {"none": (6, 16), "fastv": (2, 8), "vtw": (3, 0)}[spec["name"]]
    prompt = [text + (16 if index < layer else kept) for index in range(6)]

    planned = schedule(prompt, NEW_TOKENS - 1, patches=16)

    for name in ("prefill", "cached", "no_cache"):
        ours = count(scope(phases, name), ModelShape.of(model.config), CONVENTIONS["flops"])
        assert count(scope(planned, name), ModelShape.of(model.config), CONVENTIONS["flops"]) == replace(
            ours, method=0
        )


def pruned(layers: int, layer: int, text: int, visual: int, kept: int) -> list[int]:
    return [text + (visual if index < layer else kept) for index in range(layers)]


def tera(model: str, prompt: list[int], convention: str) -> float:
    return count(schedule(prompt, 0).prefill, LLAVA[model], CONVENTIONS[convention]).total / 1e12


def test_vtws_printed_formula_gives_its_printed_values():
    """K = 16 of 32 layers, 46 text tokens: 3.2320 and 1.7321 T (the formula is FastV's)."""
    assert tera("LLaVA-1.5-7B", [622] * 32, "fastv_2ndm") == pytest.approx(3.2320, abs=5e-5)
    assert tera("LLaVA-1.5-7B", pruned(32, 16, 46, 576, 0), "fastv_2ndm") == pytest.approx(1.7321, abs=5e-5)


@pytest.mark.parametrize(
    ("model", "whole", "reduced"),
    [("LLaVA-1.5-7B", 3.2280, 0.5122), ("LLaVA-1.5-13B", 6.2813, 1.0020)],
)
def test_divprunes_published_script_lies_between_neighbouring_prompts(model, whole, reduced):
    """56 of 576 tokens before layer 0; its text length is a mean over tasks, between 45 and 46 tokens."""
    layers = LLAVA[model].text.layers
    for visual, published in ((576, whole), (56, reduced)):
        low, high = (tera(model, [visual + text] * layers, "fastv_2ndm") for text in (45, 46))
        assert low < published < high


def test_conventions_differ_by_what_they_say():
    work = schedule([600] * 32, 0).prefill
    shape = LLAVA["LLaVA-1.5-7B"]
    text = shape.text
    two, three, all_of_it = (count(work, shape, convention) for convention in CONVENTIONS.values())

    assert three.total - two.total == 32 * 600 * text.hidden * text.intermediate
    assert (all_of_it.linear, all_of_it.attention) == (2 * three.linear, 2 * three.attention)
    assert all_of_it.head == 2 * text.hidden * text.vocabulary
    assert Flops().total == 0


def test_without_a_cache_every_step_pays_for_the_whole_sequence():
    phases = schedule([10, 4], steps=2)

    assert phases.decode == Work(tokens=(2, 2), pairs=(11 + 12, 5 + 6), logits=2)
    assert phases.recompute == Work(tokens=(23, 11), pairs=(121 + 144, 25 + 36), logits=2)


def test_parameters_are_those_of_the_real_models():
    """Llama-2's 6.74 and 13.02 billion, with 64 more words of LLaVA's."""
    for model, words in (("LLaVA-1.5-7B", 6_738_415_616), ("LLaVA-1.5-13B", 13_015_864_320)):
        text = LLAVA[model].text
        assert text.parameters == words + 2 * 64 * text.hidden


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method.label)
def test_kv_bytes_are_those_of_the_tensors(case):
    model = tiny_llava(kv_heads=2)
    with case.method(model, questions=Reader()) as run:
        model.generate(**prompts(case, tiny_inputs([7])), max_new_tokens=NEW_TOKENS, do_sample=False)

    held = kv_bytes(run.kv_lengths.sum(dim=1).tolist(), ModelShape.of(model.config).text, bytes_per_number=4)
    assert held == run.kv_bytes
