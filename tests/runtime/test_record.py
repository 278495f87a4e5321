"""What a run says afterwards: class mass of any layer, rows that move, one record per prefill."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import DyRate, Engine, FastV, NoReduction, RandomTokens
from dyrate.errors import DyrateError
from dyrate.reduction import ReductionMethod, View
from tests.runtime.method_table import FastVRule
from tests.runtime.probes import DecodeRule, EvictSome, Lagging, Pyramid, SelectSome
from tests.runtime.reference import Rule, masked_forward
from tests.runtime.tiny_predictors import tiny_predictor
from tests.tiny import IMAGE, NUM_LAYERS, row_of, tiny_inputs, tiny_llava


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return tiny_inputs([7, 3, 20], images=[1, 2, 1])


def loop(
    model: Any, inputs: dict[str, Tensor], steps: int, moves: dict[int, list[int]] | None = None
) -> Tensor:
    """A bare greedy loop; after step t rows move as `moves[t]` says. Returns tokens [batch, steps]."""
    output = model(**inputs)
    tokens = output.logits[:, -1:].argmax(-1)
    for step in range(1, steps):
        if moves and step - 1 in moves:
            rows = torch.tensor(moves[step - 1])
            output.past_key_values.reorder_cache(rows)
            tokens = tokens[rows]
        output = model(input_ids=tokens[:, -1:], past_key_values=output.past_key_values)
        tokens = torch.cat([tokens, output.logits[:, -1:].argmax(-1)], dim=1)
    return tokens


RULES: dict[ReductionMethod, Callable[[int], Rule]] = {
    NoReduction(): lambda length: Rule(),
    FastV(layer=2, rate=0.5): lambda length: FastVRule(2, 0.5),
    SelectSome(): lambda length: DecodeRule(SelectSome(), length),
}


@pytest.mark.parametrize("method", RULES, ids=lambda method: method.label)
def test_class_mass_of_every_recorded_layer_is_that_of_the_reference(
    method: ReductionMethod, model: Any, inputs: dict[str, Tensor]
) -> None:
    with torch.no_grad(), method(model, record=range(NUM_LAYERS)) as run:
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert sorted(run.class_mass) == list(range(NUM_LAYERS))
    for row in range(3):
        alone = row_of(inputs, row)
        ids_alone = alone["input_ids"][0].tolist()
        length = len(ids_alone) - ids_alone.index(IMAGE)
        rule = RULES[method](length)
        expected = masked_forward(model, alone, ids[row, inputs["input_ids"].shape[1] :].tolist(), rule)
        for layer, mass in run.class_mass.items():
            assert mass.dtype == torch.float32
            torch.testing.assert_close(mass[:, row], expected.class_mass[layer], atol=1e-5, rtol=0)


def test_a_bare_loop_equals_generate(model: Any) -> None:
    inputs = tiny_inputs([7, 7])
    with torch.no_grad(), EvictSome()(model) as run:
        generated = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        lengths = run.kv_lengths
        looped = loop(model, inputs, 6)
    assert torch.equal(generated[:, -6:], looped)
    assert torch.equal(run.kv_lengths, lengths)


MOVING = [
    EvictSome(),
    EvictSome(positions="contiguous"),
    SelectSome(),
    FastV(layer=1, rate=0.7),
    Pyramid(),
    Lagging(),
    DyRate(predictor=tiny_predictor("moving", kind="gru"), mode="evict", evict_at_least=2),
    DyRate(predictor=tiny_predictor("moving-lag", kind="window", lagged=(3,)), prune_prefill=False),
]


@pytest.mark.parametrize("method", MOVING, ids=lambda method: method.label)
def test_rows_that_move_take_their_history_along(
    method: ReductionMethod, model: Any, inputs: dict[str, Tensor]
) -> None:
    """After moves, each row reads as if it had been its ancestor's prompt all along."""
    moves = {0: [2, 0, 0], 2: [1, 1, 0]}
    origin = [0, 0, 2]  # rows after both moves: [1, 1, 0] of [2, 0, 0]
    with torch.no_grad(), method(model) as run:
        looped = loop(model, inputs, 5, moves)
    with torch.no_grad(), method(model) as plain:
        expected = loop(model, inputs, 5)
    assert run.visual_tokens.tolist() == plain.visual_tokens[origin].tolist()
    assert torch.equal(looped, expected[origin])
    assert torch.equal(run.kv_lengths, plain.kv_lengths[:, origin])
    for layer in range(NUM_LAYERS):
        assert [kept.tolist() for kept in run.kept[layer]] == [
            plain.kept[layer][row].tolist() for row in origin
        ]
    theirs = plain.steps.set_index(["row", "step"])
    ours = run.steps.set_index(["row", "step"])
    for row, ancestor in enumerate(origin):
        torch.testing.assert_close(
            torch.tensor(ours.loc[row].to_numpy()),
            torch.tensor(theirs.loc[ancestor].to_numpy()),
            atol=1e-5,
            rtol=0,
        )


def test_rows_can_be_repeated_and_picked(model: Any) -> None:
    inputs = tiny_inputs([7, 3])
    with torch.no_grad(), FastV()(model) as run:
        cache = model(**inputs).past_key_values
        kept = [rows.tolist() for rows in run.kept[5]]
        cache.batch_repeat_interleave(2)
        assert [rows.tolist() for rows in run.kept[5]] == [kept[0], kept[0], kept[1], kept[1]]
        cache.batch_select_indices(torch.tensor([3, 0]))
        assert [rows.tolist() for rows in run.kept[5]] == [kept[1], kept[0]]
        assert run.kv_lengths.shape == (NUM_LAYERS, 2)
        assert cache.layers[0].keys.shape[0] == 2


def test_every_prefill_starts_a_new_record(model: Any) -> None:
    with FastV(layer=2, rate=0.5)(model) as run:
        model.generate(**tiny_inputs([7, 3]), max_new_tokens=4)
        assert len(run.steps) == 8
        model.generate(**tiny_inputs([5]), max_new_tokens=2)
        assert len(run.steps) == 2
        assert run.kept.keys() == set(range(NUM_LAYERS))
    assert run.kv_lengths.shape == (NUM_LAYERS, 1)  # Still readable after the block.


def test_prompts_without_an_image_are_left_alone(model: Any) -> None:
    inputs = tiny_inputs([7, 3], images=[0, 0])
    stock = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    with FastV(layer=2, rate=1.0)(model) as run:
        assert torch.equal(model.generate(**inputs, max_new_tokens=3, do_sample=False), stock)
    assert run.visual_tokens.tolist() == [0, 0]
    assert run.steps.retained.isna().all()
    assert (run.steps.mass_img == 0).all()
    torch.testing.assert_close(
        torch.tensor(run.steps.filter(like="mass_").sum(axis=1).to_numpy()),
        torch.ones(6, dtype=torch.float32),
    )


def test_a_prefill_alone_has_no_decode_tokens(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model) as run:
        model(**inputs)
    assert run.decode_tokens.isnan().all()
    assert run.decode_tokens_per_row.shape == (0, NUM_LAYERS, 3)
    assert len(run.steps) == 3


class DiesAtPrefill(FastV):
    def prefill(self, view: View) -> Tensor | None:
        raise ArithmeticError


def test_after_a_failed_prefill_the_record_has_no_steps(model: Any, inputs: dict[str, Tensor]) -> None:
    with FastV()(model) as whole:
        model(**inputs)
    with DiesAtPrefill()(model) as run, pytest.raises(ArithmeticError):
        model(**inputs)
    assert len(run.steps) == 0
    assert run.steps.dtypes.to_dict() == whole.steps.dtypes.to_dict()
    assert run.class_mass == run.kept == {}
    assert run.visual_tokens.tolist() == [16, 32, 16]


@pytest.mark.parametrize("method", MOVING, ids=lambda method: method.label)
def test_decode_tokens_of_a_row_are_those_of_the_row_alone(
    method: ReductionMethod, model: Any, inputs: dict[str, Tensor]
) -> None:
    """Also for rows that moved, so that steps of rows that ended can be left out of a mean."""
    moves, origin = {0: [2, 0, 0], 2: [1, 1, 0]}, [0, 0, 2]
    with torch.no_grad(), method(model) as run:
        loop(model, inputs, 5, moves)
    assert run.decode_tokens_per_row.shape == (4, NUM_LAYERS, 3)
    assert torch.equal(run.decode_tokens_per_row.double().mean(dim=(0, 2)).float(), run.decode_tokens)
    for row, ancestor in enumerate(origin):
        with torch.no_grad(), method(model) as alone:
            loop(model, row_of(inputs, ancestor), 5)
        assert torch.equal(run.decode_tokens_per_row[:, :, row], alone.decode_tokens_per_row[:, :, 0])


def test_rows_that_end_early_go_on_being_recorded() -> None:
    model, inputs = tiny_llava(), tiny_inputs([7, 3, 20])
    with torch.no_grad(), FastV()(model) as run:
        ended = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=list(range(3, 40)))
    assert len(run.steps) == 3 * (ended.shape[1] - inputs["input_ids"].shape[1])


def test_statistics_of_the_step_before_are_at_hand(model: Any) -> None:
    """Lagging selects by layer 4's scores one step earlier, which exist for the tokens seen then."""
    with torch.no_grad(), Lagging()(model) as run:
        model.generate(**tiny_inputs([7, 3]), max_new_tokens=4, do_sample=False)
    steps = run.steps
    assert (steps.query("step == 0").retained == 1.0).all()
    assert (steps.query("step > 0").retained == 0.5).all()


def test_the_random_choice_belongs_to_the_row(model: Any) -> None:
    """Another image or question gives another choice; batch, beams and device give the same."""
    inputs = tiny_inputs([7, 7])
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}

    def chosen(inputs: dict[str, Tensor], seed: int = 0, **options: Any) -> list[list[int]]:
        with RandomTokens(layer=2, rate=0.5, seed=seed)(model) as run:
            model.generate(**inputs, max_new_tokens=2, **options)
        return [rows.tolist() for rows in run.kept[5]]

    first = chosen(inputs)
    assert first[0] != first[1]
    assert chosen(inputs, seed=1) != first
    assert all(a != b for a, b in zip(chosen(other), first, strict=True))
    assert chosen(row_of(inputs, 1)) == first[1:]
    assert chosen(inputs, num_beams=2) == [first[0]] * 2 + [first[1]] * 2


@pytest.mark.parametrize("method", [FastV(layer=2, rate=0.5), SelectSome(), EvictSome()], ids=str)
def test_which_tokens_were_seen_follows_its_rows_as_their_number_does(
    method: ReductionMethod, model: Any, inputs: dict[str, Tensor]
) -> None:
    with torch.no_grad(), method(model) as run:
        model.generate(**inputs, max_new_tokens=6, num_beams=3, do_sample=False)
    assert torch.equal(run.seen[1:].sum(dim=-1), run.decode_tokens_per_row)
    kept = torch.tensor([[len(row) for row in rows] for rows in run.kept.values()])
    assert torch.equal(run.seen[0].sum(dim=-1), kept)
    assert torch.equal(run.kept_counts, kept)


def test_an_engine_that_counts_tokens_does_not_make_up_which_they_were(inputs: dict[str, Tensor]) -> None:
    _, run = Engine(tiny_llava()).generate(FastV(layer=2, rate=0.5), inputs, max_new_tokens=3)
    assert run.decode_tokens_per_row.shape[0] == 2
    with pytest.raises(DyrateError, match="counts the visual tokens of a decode step"):
        _ = run.seen
