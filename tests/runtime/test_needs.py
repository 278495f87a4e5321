"""What a method asks for is there, counted, and refused where it cannot be had."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import Engine, Installation, Kept, Needs, PrefillView, ReductionMethod, load_method
from dyrate.errors import DyrateError
from tests.runtime.looking import PATCHES, ROWS, Watched, looking, macs_of, seen
from tests.runtime.method_table import EXAMPLES
from tests.runtime.reference import Rule, masked_forward
from tests.tiny import IMAGE, row_of, tiny_inputs, tiny_llava


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(kv_heads=2)


@pytest.mark.parametrize("queries", ["instruction", "all"])
def test_the_attention_of_prompt_queries_is_that_of_the_reference(queries: Any, model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    needs = Needs(prefill=(3,), attention={2: queries})
    attention = seen(needs, lambda view: view.attention[2].prompt, model, inputs)

    for row in (0, 1, 3):
        alone, rule = row_of(inputs, row), Watched()
        masked_forward(model, alone, [5], rule)
        ids = alone["input_ids"][0].tolist()
        image = [column for column, token in enumerate(ids) if token == IMAGE]
        text = [column for column in range(image[0], len(ids)) if column not in image]
        columns = text if queries == "instruction" else list(range(len(ids)))
        assert attention.queries[row].sum() == len(columns)
        found = attention.visual[row][:, attention.queries[row]][:, :, : len(image)]
        torch.testing.assert_close(found, rule.found[:, columns][:, :, image], atol=1e-5, rtol=0)
        found = attention.instruction[row][:, attention.queries[row]][:, :, -len(text) :]
        torch.testing.assert_close(found, rule.found[:, columns][:, :, text], atol=1e-5, rtol=0)
        assert (attention.visual[row][:, ~attention.queries[row]] == 0).all()


def test_only_the_queries_that_are_asked_for_are_there(model: Any) -> None:
    with pytest.raises(DyrateError, match="only the newest query's attention was read"):
        seen(Needs(prefill=(3,), attention=(2,)), lambda view: view.attention[2].prompt, model, tiny_inputs())


def test_merging_is_recorded(model: Any) -> None:
    method = load_method({"name": f"{EXAMPLES}/recycled_tokens.py:RecycledTokens", "layers": [1, 3]})
    with method(model) as run:
        model.generate(**tiny_inputs(**ROWS), max_new_tokens=2, do_sample=False)
    assert sorted(run.merged) == [1, 3]
    for row, visual in enumerate([16, 32, 0, 16]):
        kept, into = run.kept[1][row].tolist(), run.merged[1][row].tolist()
        assert into[visual:] == [-1] * (32 - visual)
        assert sorted(set(into[:visual])) == kept
        assert all(into[token] == token for token in kept)


def test_the_ledger_counts_what_needs_cost(model: Any) -> None:
    nothing = lambda view: None  # noqa: E731
    text, prompt = 7 + 2, 4 + 16 + 2 + 7
    assert macs_of(looking(Needs(prefill=(3,), attention=(2,)), nothing), model) == (prompt, 0)
    instruction = looking(Needs(prefill=(3,), attention={2: "instruction"}), nothing)
    assert macs_of(instruction, model) == (prompt + text * prompt, 0)
    everything = looking(Needs(prefill=(3,), attention={2: "all"}), nothing)
    assert macs_of(everything, model) == (prompt + prompt * prompt, 0)
    tower = Needs(prefill=(0,), tower={-2: ("class_attention", "joint_class_attention", "keys", "states")})
    rows = 2 * 17 * 16 * 16  # queries and keys
    assert macs_of(looking(tower, lambda view: view.tower(-2).states), model) == (0, 0)
    assert macs_of(looking(tower, lambda view: view.tower(-2).keys), model) == (0, rows)
    attention = looking(tower, lambda view: view.tower(-2).class_attention)
    assert macs_of(attention, model) == (0, rows + 17 * 16)
    joint = looking(tower, lambda view: view.tower(-2).joint_class_attention)
    assert macs_of(joint, model) == (0, rows + 17 * 16)
    both = looking(tower, lambda view: (kept := view.tower(-2), kept.keys, kept.class_attention))
    assert macs_of(both, model) == (0, rows + 17 * 16)
    assert macs_of(looking(tower, lambda view: view.count_macs(7)), model) == (0, 7)
    compare = looking(PATCHES, lambda view: view.tower(-2).embeds)
    assert macs_of(compare, model) == (0, 17 * 16 * 16)
    projector = 16 * (16 * 32 + 32 * 32)
    project = looking(tower, lambda view: view.project(view.tower(-2).states))
    assert macs_of(project, model) == (0, projector)


@dataclass(frozen=True)
class Hiding(ReductionMethod):
    pairs: tuple[str, ...] = field(default=())

    def needs(self, depth: int) -> Needs:
        return Needs(blocked=frozenset(tuple(pair.split("-")) for pair in self.pairs))


@pytest.mark.parametrize(
    "pairs",
    [("ins-img",), ("res-sys",), ("res-ins",), ("ins-sys", "res-sys"), ("img-sys", "res-img")],
    ids=str,
)
def test_hidden_classes_are_those_of_the_masked_reference(pairs: tuple[str, ...], model: Any) -> None:
    inputs, method = tiny_inputs(**ROWS), Hiding(pairs)
    with torch.no_grad(), method(model) as run:
        output = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    rule = Rule()
    rule.blocked = [tuple(pair.split("-")) for pair in pairs]  # type: ignore[assignment]
    for row in range(4):
        tokens = output.sequences[row, -4:].tolist()
        expected = masked_forward(model, row_of(inputs, row), tokens, rule)
        logits = torch.stack([step[row] for step in output.logits])
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
    held = run.kv_lengths[0] - run.text_tokens - 3
    assert held.tolist() == ([0] * 4 if "res-img" in pairs else [16, 32, 0, 16])


@dataclass(frozen=True)
class Embedding(ReductionMethod):
    def install(self, parts: Installation) -> None:
        parts.embed_tokens({5: torch.ones(32)})


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(prefill=(2,), ahead=(3,)), "ahead names layer 3, on entering which it is asked nothing"),
        (Needs(prefill=(2,), ahead=(9,)), "ahead: there is no layer 9"),
        (Needs(prefill=(2,), keys=(2,)), "the keys of layer 2 are there on entering a later layer"),
        (Needs(prefill=(2,), whole_rows=3), "whole_rows"),  # type: ignore[arg-type]
    ],
)
def test_needs_that_cannot_be_met_are_refused(needs: Needs, message: str, model: Any) -> None:
    with pytest.raises(DyrateError, match=message):
        seen(needs, lambda view: None, model, tiny_inputs())


def test_what_the_engine_cannot_give_is_refused_by_name(model: Any) -> None:
    engine, inputs = Engine(tiny_llava()), tiny_inputs(**ROWS)
    with pytest.raises(
        DyrateError, match="hides 'sys' tokens from generated ones, which the graph engine cannot"
    ):
        engine.generate(Hiding(("res-sys",)), inputs, max_new_tokens=3)
    with pytest.raises(DyrateError, match=r"gives token 5 of the model's vocabulary another embedding"):
        engine.generate(Embedding(), inputs, max_new_tokens=3)
    method, plain = Hiding(("ins-img", "res-img")), tiny_llava()
    with method(plain) as expected:
        tokens = plain.generate(**inputs, max_new_tokens=5, do_sample=False)
    found, run = engine.generate(method, inputs, max_new_tokens=5)
    assert found.tolist() == tokens.tolist()
    assert torch.equal(run.kv_lengths, expected.kv_lengths)
    assert run.kept[3][1].tolist() == list(range(32))


def test_scores_that_are_not_numbers_fail_the_generation(model: Any) -> None:
    from dyrate import PrefillPruning

    @dataclass(frozen=True)
    class Dividing(PrefillPruning):
        def score(self, view: PrefillView) -> Tensor:
            return view.present / (view.visual_counts[:, None] - 16)

    with (
        pytest.raises(DyrateError, match=r"scores of row 0 at step 0 are NaN or infinite"),
        Dividing()(model),
    ):
        model.generate(**tiny_inputs([7]), max_new_tokens=2)


def test_states_given_for_tokens_that_leave_change_nothing(model: Any) -> None:
    inputs = tiny_inputs([7, 3])

    def answer(noise: float) -> Tensor:
        @dataclass(frozen=True)
        class Noisy(ReductionMethod):
            def needs(self, depth: int) -> Needs:
                return Needs(prefill=(2,))

            def prefill(self, view: PrefillView) -> Kept:
                keep = view.present & (torch.arange(16) % 2 == 0)
                return Kept(keep, view.states + noise * ~keep[:, :, None])

        with torch.no_grad(), Noisy()(model):
            return model(**inputs).logits[:, -1]

    assert torch.equal(answer(0.0), answer(9.0))
