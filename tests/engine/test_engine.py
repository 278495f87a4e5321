"""The engine gives what `model.generate()` gives: same tokens, same run, for every method."""

import gc
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from dyrate.engine import encoder
from dyrate.engine.engine import Engine
from dyrate.engine.tokenwise import Tokenwise
from dyrate.errors import DyrateError
from dyrate.evaluation.decoding import decoding_spec, generation_arguments, seeded_sampling
from dyrate.methods.fastv import FastV
from dyrate.methods.fixed_prune import FixedPrune
from dyrate.methods.none import NoReduction
from dyrate.methods.visionpulse import VisionPulse
from dyrate.reduction import DecodeView, Needs, PrefillView, ReductionMethod, View
from tests.runtime.example_rules import Reader
from tests.runtime.method_table import CASES, ON_ENGINE, OUTSIDE, Case, prompts
from tests.runtime.test_contract import OTHERS, numbers_images_anew, subject_of
from tests.tiny import VISUAL_TOKENS, row_of, tiny_inputs, tiny_llava

REFUSED = {"voco"}
ROWS = {"rows": [7, 3, 11], "images": [1, 2, 0]}


FIRST = [*{case.method.name: case for case in reversed(ON_ENGINE)}.values()]
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


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.method.label)
def test_released_memory_is_free_at_once(case: Case) -> None:
    """A cache that waits for the garbage collector would lie beside the next one."""
    engine = Engine(tiny_llava())
    run = engine.generate(
        case.method, prompts(case, tiny_inputs(**ROWS)), max_new_tokens=3, questions=Reader()
    )[1]
    gc.collect()
    gc.disable()
    try:
        kept = weakref.ref(engine._memory), weakref.ref(engine._decoder)
        engine.release()
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()
    assert run.steps is not None


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


@dataclass(frozen=True)
class Rows(ReductionMethod):
    """Looks at whole rows, of a layer that has run and of layers before they run, with tokens gone."""

    found: ClassVar[list[list[Tensor]]]
    mode: str

    def needs(self, depth: int) -> Needs:
        return Needs(
            prefill=(1, 4),
            decode=(2, 4),
            ahead=(2, 4),
            attention=(3,),
            decode_mode=self.mode,  # type: ignore[arg-type]
            whole_rows=True,
        )

    def prefill(self, view: PrefillView) -> Tensor:
        return self.some(view, 4)

    def decode(self, view: DecodeView) -> Tensor:
        for layer in sorted(view.attention):
            attention = view.attention[layer]
            rows = attention.whole
            assert rows is not None
            heads, slots = rows.weights.shape[1:]
            places = torch.where(rows.places < 0, slots, rows.places)[:, None].expand(-1, heads, -1)
            in_order = rows.weights.new_zeros(len(places), heads, slots + 1).scatter(2, places, rows.weights)
            of_visual = rows.visual_slots[:, None].expand(-1, heads, -1)
            by_token = rows.weights.gather(2, of_visual.clamp_min(0)).masked_fill(of_visual < 0, 0)
            looked = in_order[..., : int(rows.places.max()) + 1], by_token, attention.head_scores
            sums = attention.class_mass, attention.mass_at(0.6), attention.seen.float()
            self.found.append([*looked, *sums])
        return self.some(view, 3 + view.step % 3)

    def some(self, view: View, part: int) -> Tensor:
        return view.present & (
            (torch.arange(view.present.shape[1], device=view.present.device) + view.layer) % part > 0
        )


@pytest.mark.parametrize("mode", ["select", "evict"])
def test_whole_rows_are_those_of_transformers(mode: str, inputs: dict[str, Tensor]) -> None:
    model, method = tiny_llava(kv_heads=2), Rows(mode)
    Rows.found = expected = []
    with method(model):
        tokens = model.generate(**inputs, max_new_tokens=7, do_sample=False)
    Rows.found = found = []
    assert Engine(model).generate(method, inputs, max_new_tokens=7)[0].tolist() == tokens.tolist()
    assert len(found) == len(expected) == 6 * 3
    for ours, theirs in zip(found, expected, strict=True):
        for part, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unit", [{}, {"unit": "blocks", "block": 4}], ids=["tokens", "blocks"])
def test_a_row_gets_what_it_gets_alone(unit: dict[str, Any], inputs: dict[str, Tensor]) -> None:
    method = VisionPulse(least=0.1, most=0.6, **unit)
    engine = Engine(tiny_llava(kv_heads=2))
    together, run = engine.generate(method, inputs, max_new_tokens=8)
    for row in range(len(together)):
        alone, its_run = engine.generate(method, row_of(inputs, row), max_new_tokens=8)
        assert alone[0, -8:].tolist() == together[row, -8:].tolist()
        assert torch.equal(its_run.decode_tokens_per_row[..., 0], run.decode_tokens_per_row[..., row])


@dataclass(frozen=True)
class NowAndThen(ReductionMethod):
    """Every second step chooses; other layers than those asked begin a section, too."""

    def needs(self, depth: int) -> Needs:
        return Needs(prefill=(1, 3), decode=(1,))

    def prefill(self, view: PrefillView) -> None:
        """Keep everything."""

    def decode(self, view: DecodeView) -> Tensor | None:
        return (
            view.present & (torch.arange(view.present.shape[1], device=view.present.device) % 3 > 0)
            if view.step % 2
            else None
        )


@dataclass(frozen=True)
class Mindful(ReductionMethod):
    """Remembers the newest token's state."""

    def needs(self, depth: int) -> Needs:
        return Needs(prefill=(1,), decode=(1,))

    def prefill(self, view: PrefillView) -> None:
        view.state["before"] = torch.zeros(len(view.present), 32, device=view.present.device)

    def decode(self, view: DecodeView) -> Tensor:
        every = view.state["before"].sum(dim=1) > 0
        view.state["before"] = view.newest_state
        return view.present & (
            every[:, None] | (torch.arange(view.present.shape[1], device=view.present.device) % 3 > 0)
        )


@pytest.mark.parametrize("method", [NowAndThen(), Mindful()], ids=lambda method: type(method).__name__)
def test_a_step_without_a_choice_and_states_kept_are_those_of_transformers(
    method: ReductionMethod, inputs: dict[str, Tensor]
) -> None:
    model = tiny_llava()
    with method(model) as expected:
        tokens = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    found, run = Engine(model).generate(method, inputs, max_new_tokens=9)
    assert found.tolist() == tokens.tolist()
    assert torch.equal(run.decode_tokens_per_row, expected.decode_tokens_per_row)


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


IN_TOWER = next(case.method for case in ON_ENGINE if case.method.name == "visionzip")


@pytest.mark.parametrize("method", [NoReduction(), IN_TOWER], ids=str)
def test_a_tower_sees_many_images_in_pieces(method: ReductionMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_llava(), tiny_inputs(rows=[7, 3, 11], images=[1, 2, 1])
    with method(model):
        expected = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    embeddings, seen = type(model.model.vision_tower.embeddings), []
    whole = embeddings.forward

    def counted(self: Any, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        seen.append(len(pixel_values))
        return whole(self, pixel_values, **kwargs)

    monkeypatch.setattr(embeddings, "forward", counted)
    monkeypatch.setattr(encoder, "_AT_ONCE", 3)
    found, _ = Engine(model).generate(method, inputs, max_new_tokens=5)
    assert found.tolist() == expected.tolist()
    assert seen == [3, 1]
