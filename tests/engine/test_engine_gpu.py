"""On a GPU: captured graphs and Triton kernels give what transformers gives, prompt after prompt."""

import copy
import gc
from typing import Any

import pytest
import torch

from dyrate.engine.capture import captured
from dyrate.engine.engine import Engine
from dyrate.methods.downsample import Downsample
from dyrate.methods.fastv import FastV
from dyrate.methods.fixed_prune import FixedPrune
from dyrate.methods.none import NoReduction
from dyrate.methods.visionpulse import VisionPulse
from dyrate.reduction import ReductionMethod
from tests.engine.test_engine import Mindful, NowAndThen, Rows
from tests.runtime.example_rules import Reader
from tests.runtime.method_table import CASES, ON_ENGINE, OUTSIDE, Case, prompts
from tests.tiny import row_of, tiny_inputs, tiny_llava
from tests.tiny_families import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Three prompts of as many rows: the second finds graphs to replay, the third needs more memory.
PROMPTS = (
    {"rows": [7, 3, 11], "images": [1, 2, 0], "seed": 0},
    {"rows": [9, 1, 4], "images": [1, 1, 1], "seed": 1},
    {"rows": [40, 12, 2], "images": [2, 3, 1], "seed": 2},
)


BUILT_IN = [case for case in ON_ENGINE if case in CASES]
PULSES = [
    VisionPulse(least=0.1, most=0.7),
    VisionPulse(unit="blocks", block=4, least=0.1, most=0.9, temperature=3.0),
]


def on_gpu(**prompt):
    return {name: tensor.to("cuda") for name, tensor in tiny_inputs(**prompt).items()}


@pytest.mark.parametrize("case", ON_ENGINE, ids=lambda case: case.method.label)
def test_tokens_and_run_are_those_of_transformers(case: Case) -> None:
    model = tiny_llava().to("cuda")
    engine = Engine(model)
    for prompt in PROMPTS:
        inputs = prompts(case, on_gpu(**prompt))
        with case.method(model, questions=Reader()) as expected:
            tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        found, run = engine.generate(case.method, inputs, max_new_tokens=12, questions=Reader())
        assert found.tolist() == tokens.tolist()
        assert run.kv_lengths.tolist() == expected.kv_lengths.tolist()
        assert torch.equal(run.decode_tokens_per_row, expected.decode_tokens_per_row)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "method", [NoReduction(), FastV(layer=2, rate=0.5), FixedPrune(layer=2, rate=0.5), *PULSES], ids=str
)
def test_every_family_generates_what_transformers_does(name: str, method: ReductionMethod) -> None:
    subject = TINY[name].subject
    model = copy.deepcopy(subject.model).to("cuda")
    inputs = {key: tensor.to("cuda") for key, tensor in subject.inputs.items()}
    with method(model) as expected:
        tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    engine = Engine(model)
    for _ in range(4):  # runs, captures, replays
        found, run = engine.generate(method, inputs, max_new_tokens=12)
        assert found.tolist() == tokens.tolist()
        assert run.kv_lengths.tolist() == expected.kv_lengths.tolist()


@pytest.mark.parametrize("case", BUILT_IN, ids=lambda case: case.method.label)
def test_a_row_gets_what_it_gets_alone(case: Case) -> None:
    model = tiny_llava().to("cuda")
    inputs = on_gpu(**PROMPTS[0])
    together, _ = Engine(model).generate(case.method, inputs, max_new_tokens=8, questions=Reader())
    engine = Engine(model)
    for row in range(3):
        alone, _ = engine.generate(case.method, row_of(inputs, row), max_new_tokens=8, questions=Reader())
        assert alone[0, -8:].tolist() == together[row, -8:].tolist()


@pytest.mark.parametrize(
    "method", [NoReduction(), Downsample(rate=0.5), OUTSIDE[0].method], ids=lambda method: method.label
)
def test_a_replayed_encoder_sees_the_new_images(method: ReductionMethod) -> None:
    model = tiny_llava().to("cuda")
    engine, inputs = Engine(model), on_gpu(**PROMPTS[0])
    seen = set()
    for seed in range(5):  # the first call runs, the second is captured, the others are replayed
        torch.manual_seed(seed)
        inputs["pixel_values"] = 3 * torch.randn_like(inputs["pixel_values"])
        with method(model):
            expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        found, _ = engine.generate(method, inputs, max_new_tokens=12)
        assert found.tolist() == expected.tolist()
        seen.add(str(expected.tolist()))
    assert len(seen) > 1, "these images make no difference"


def test_a_replay_is_given_up_where_the_model_changes() -> None:
    model = tiny_llava().to("cuda")
    engine, inputs, method = Engine(model), on_gpu(**PROMPTS[0]), FixedPrune(layer=2, rate=0.5)
    layer = model.model.vision_tower.encoder.layers[0]

    def hook() -> None:
        # Not on the layer: transformers has taken down its hidden states by then.
        layer.mlp.register_forward_hook(lambda module, arguments, output: -output)

    def weight() -> None:
        layer.mlp.fc1.weight = torch.nn.Parameter(10 * torch.randn_like(layer.mlp.fc1.weight))

    def text() -> None:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))

    seen = set()
    for change in (lambda: None, weight, text, hook):
        change()
        with method(model):
            expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        for _ in range(4):  # runs, captures, replays
            assert engine.generate(method, inputs, max_new_tokens=12)[0].tolist() == expected.tolist()
        seen.add(str(expected.tolist()))
    assert len(seen) == 4, "a change makes no difference"


def test_the_host_never_waits_while_a_method_decides() -> None:
    """Between two looks at whether all rows have ended, a step only asks the device for work."""
    model = tiny_llava().to("cuda")
    engine = Engine(model)
    for case in (case for case in BUILT_IN if case.method.needs(6).decode):
        inputs = on_gpu(**PROMPTS[0])
        engine.generate(case.method, inputs, max_new_tokens=6)
        calls = []

        def watch(calls: list[int] = calls) -> None:
            calls.append(0)
            torch.cuda.set_sync_debug_mode("error" if 1 < len(calls) < 6 else "default")

        try:
            engine.generate(case.method, inputs, max_new_tokens=8, on_step=watch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("mode", ["select", "evict"])
def test_whole_rows_are_read_between_replayed_sections(mode: str) -> None:
    """By a method that no graph can hold."""
    model, method = tiny_llava(kv_heads=2).to("cuda"), Rows(mode)
    engine = Engine(model)
    for prompt in (PROMPTS[0], *PROMPTS):
        inputs = on_gpu(**prompt)
        Rows.found = expected = []
        with method(model):
            tokens = model.generate(**inputs, max_new_tokens=7, do_sample=False)
        Rows.found = found = []
        assert engine.generate(method, inputs, max_new_tokens=7)[0].tolist() == tokens.tolist()
        assert len(found) == len(expected) == 6 * 3
        for ours, theirs in zip(found, expected, strict=True):
            for part, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(part, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [NowAndThen(), Mindful()], ids=lambda method: type(method).__name__)
def test_what_no_graph_can_hold_runs_between_sections(method: ReductionMethod) -> None:
    model = tiny_llava().to("cuda")
    engine, inputs = Engine(model), on_gpu(**PROMPTS[0])
    with method(model) as expected:
        tokens = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    for _ in range(3):
        found, run = engine.generate(method, inputs, max_new_tokens=9)
        assert found.tolist() == tokens.tolist()
        assert torch.equal(run.decode_tokens_per_row, expected.decode_tokens_per_row)


@pytest.mark.parametrize("method", [NoReduction(), *PULSES], ids=str)
def test_bfloat16_runs_and_repeats_itself(method: ReductionMethod) -> None:
    model = tiny_llava(kv_heads=2).to("cuda", torch.bfloat16)
    engine = Engine(model)
    inputs = on_gpu(**PROMPTS[0])
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    first, _ = engine.generate(method, inputs, max_new_tokens=12)
    assert engine.generate(method, inputs, max_new_tokens=12)[0].tolist() == first.tolist()


def test_a_graph_that_is_freed_during_a_capture_does_not_spoil_it() -> None:
    stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    x = torch.zeros(3, device="cuda")
    with captured(stream, pool) as old:
        x.add_(1)
    ring: dict[str, Any] = {"graph": old}
    ring["ring"] = ring
    del old
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with captured(stream, pool) as graph:
            del ring
            lists = [[] for _ in range(1000)]
            x.add_(len(lists))
    finally:
        gc.set_threshold(*thresholds)
    assert gc.isenabled()
    graph.replay()
    assert x.tolist() == [1000.0] * 3
