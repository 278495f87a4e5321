"""Attention ahead, keys, angles, whole rows, and the order of tokens."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import Engine, Kept, Needs, PrefillView, ReductionMethod
from dyrate.cost.work import work_of
from dyrate.errors import DyrateError
from tests.runtime.looking import ROWS, Ahead, Watched, looking, seen
from tests.runtime.reference import Rule, masked_forward
from tests.tiny import IMAGE, row_of, tiny_inputs, tiny_llava


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(kv_heads=2)


@pytest.mark.parametrize("engine", [False, True])
def test_the_attention_of_a_layer_ahead_is_that_of_the_layer(engine: bool, model: Any) -> None:
    Ahead.found = []
    if engine:
        Engine(tiny_llava(kv_heads=2)).generate(Ahead(), tiny_inputs(**ROWS), max_new_tokens=4)
    else:
        with Ahead()(model):
            model.generate(**tiny_inputs(**ROWS), max_new_tokens=4, do_sample=False)
    assert len(Ahead.found) == 4
    for ahead, after in Ahead.found:
        torch.testing.assert_close(ahead.head_scores, after.head_scores, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(ahead.class_mass, after.class_mass, atol=1e-6, rtol=1e-5)


def test_the_ledger_counts_what_is_computed_ahead(model: Any) -> None:
    prompt = 4 + 16 + 2 + 7
    with looking(Needs(prefill=(3,), ahead=(3,)), lambda view: None)(model) as run:
        model.generate(**tiny_inputs([7]), max_new_tokens=2, do_sample=False)
    work = work_of(run, looking(Needs(prefill=(3,), ahead=(3,)), None)).prefill
    assert (work.scored, work.scored_prompt, work.queries, work.keys) == (prompt, prompt, 1, prompt)


def test_keys_are_those_of_the_layer(model: Any) -> None:
    inputs = tiny_inputs(**ROWS)

    def look(view: PrefillView) -> tuple[Tensor, Tensor, Tensor]:
        return view.keys(1), view.instruction_keys(1), view.instruction

    visual, text, there = seen(Needs(prefill=(3,), keys=(1,)), look, model, inputs)
    with torch.no_grad():
        whole = model(**{**inputs, "use_cache": True}).past_key_values.layers[1].keys
    for row in (0, 1, 3):
        ids = inputs["input_ids"][row]
        image = (ids == IMAGE).nonzero().flatten()
        after = [c for c in range(int(image[0]), len(ids)) if ids[c] != IMAGE]
        expected = whole[row].transpose(0, 1)
        torch.testing.assert_close(visual[row, : len(image)], expected[image], atol=1e-5, rtol=0)
        torch.testing.assert_close(text[row][there[row]], expected[after], atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_angles_are_those_of_the_positions(positions: Any, model: Any) -> None:
    inputs, found = tiny_inputs(**ROWS), list[Any]()

    @dataclass(frozen=True)
    class Turning(ReductionMethod):
        def needs(self, depth: int) -> Needs:
            return Needs(prefill=(2, 3), positions=positions)

        def prefill(self, view: PrefillView) -> Tensor:
            found.append((view.angles, view.instruction_angles, view.present, view.instruction))
            return view.present & (torch.arange(view.present.shape[1]) % 3 > 0)

    with Turning()(model):
        model.generate(**inputs, max_new_tokens=1)
    for dropped, (visual, text, there, told) in enumerate(found):
        for row in (0, 1, 3):
            ids = row_of(inputs, row)["input_ids"][0].tolist()
            image = [column for column, token in enumerate(ids) if token == IMAGE]
            rest = [c for c in range(image[0], len(ids)) if c not in image]
            gone = [image[i] for i in range(0, len(image), 3)] if dropped else []
            left = [column for column in range(len(ids)) if column not in gone]
            place = {c: left.index(c) if positions == "contiguous" else c for c in left}
            for (cos, sin), among, columns in ((visual, there, image), (text, told, rest)):
                held = torch.tensor([place[column] for column in columns if column in place])
                angles = held[:, None] / 10_000 ** (torch.arange(4) / 4)
                torch.testing.assert_close(cos[row, among[row]], angles.cos().repeat(1, 2))
                torch.testing.assert_close(sin[row, among[row]], angles.sin().repeat(1, 2))
                assert (cos[row, ~among[row]] == 0).all()


def test_keys_that_needs_do_not_name_are_not_there(model: Any) -> None:
    with pytest.raises(DyrateError, match="does not have the keys of layer 2: needs must name it"):
        seen(Needs(prefill=(3,), keys=(1,)), lambda view: view.keys(2), model, tiny_inputs())


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0, 2.0])
def test_mass_at_a_temperature_is_that_of_divided_logits(temperature: float, model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    needs = Needs(prefill=(3,), attention={2: "all"}, whole_rows=True)

    def look(view: PrefillView) -> tuple[Tensor, Tensor]:
        attention = view.attention[2]
        return attention.mass_at(temperature), attention.class_mass

    found, plain = seen(needs, look, model, inputs)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))
    if temperature == 1:
        torch.testing.assert_close(found, plain)
    for row in (0, 1, 3):
        alone, rule = row_of(inputs, row), Watched()
        masked_forward(model, alone, [5], rule)
        ids = alone["input_ids"][0].tolist()
        image = torch.tensor([token == IMAGE for token in ids])
        weights = rule.found[:, -1].double() ** (1 / temperature)
        share = weights[:, image].sum(-1) / weights.sum(-1)
        torch.testing.assert_close(found[row, :, 1].double(), share, atol=1e-5, rtol=1e-4)


def test_mass_at_a_temperature_must_be_asked_for(model: Any) -> None:
    with pytest.raises(DyrateError, match="needs must ask for whole_rows"):
        seen(
            Needs(prefill=(3,), attention=(2,)),
            lambda view: view.attention[2].mass_at(2),
            model,
            tiny_inputs(),
        )


@dataclass(frozen=True)
class Backwards(ReductionMethod):
    """Every second token stays; those of each image stand in reverse order."""

    layers: tuple[int, ...] = (0, 3)

    def needs(self, depth: int) -> Needs:
        return Needs(prefill=self.layers, positions="contiguous")

    def prefill(self, view: PrefillView) -> Kept:
        index = torch.arange(view.present.shape[1]).expand_as(view.present)
        keep = view.present if view.layer == 3 else view.present & (index % 2 == 0)
        return Kept(keep, order=index // 16 * 64 - index)


class BackwardsRule(Rule):
    contiguous = True

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return held if layer == 3 else held[::2]

    def order(self, layer: int, kept: list[int]) -> list[int]:
        return sorted(kept, key=lambda token: (token // 16, -token))


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("layers", [(0,), (3,), (0, 3)])
def test_tokens_stand_in_the_order_that_a_method_says(layers: Any, engine: bool, model: Any) -> None:
    inputs, method = tiny_inputs(**ROWS), Backwards(layers)
    if engine:
        found, run = Engine(tiny_llava(kv_heads=2)).generate(method, inputs, max_new_tokens=5)
    else:
        with method(model) as run:
            found = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    tokens = found[:, -5:].tolist()
    for row in range(4):
        outcome = masked_forward(model, row_of(inputs, row), tokens[row], BackwardsRule(layers))
        assert outcome.logits.argmax(-1).tolist() == tokens[row]
        for layer in range(6):
            assert run.kept[layer][row].tolist() == outcome.kept[layer]


def test_an_order_without_new_positions_is_refused(model: Any) -> None:
    @dataclass(frozen=True)
    class Wrong(Backwards):
        def needs(self, depth: int) -> Needs:
            return Needs(prefill=self.layers)

    with (
        pytest.raises(DyrateError, match="which needs must announce: positions='contiguous'"),
        Wrong()(model),
    ):
        model.generate(**tiny_inputs([7]), max_new_tokens=2)
