"""Visual tokens per layer: exact sums over what was really decoded, also where rows and steps differ."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dyrate.evaluation.visual_tokens import TokenSums, add, decode_steps, means_and_work, token_sums
from tests.runtime.probes import EvictSome, SelectSome
from tests.tiny import row_of, tiny_inputs, tiny_llava

ENDS = list(range(3, 25))  # so many that rows end early


def test_steps_after_an_answers_end_do_not_count() -> None:
    made = torch.tensor([[5, 6, 2, 3, 3], [2, 3, 3, 3, 3], [5, 6, 7, 8, 9]])
    assert decode_steps(made, 2).tolist() == [2, 0, 4]
    assert decode_steps(made, [2, 7]).tolist() == [2, 0, 2]
    assert decode_steps(made[:, :1], 2).tolist() == [0, 0, 0]


def run_of(attended: list[list[list[int]]]) -> Any:
    """A run of two layers; attended[step][layer][row]."""
    counts = torch.tensor(attended)
    rows = counts.shape[2]
    return SimpleNamespace(
        visual_tokens=torch.full((rows,), 9),
        kept_counts=torch.full((2, rows), 9),
        decode_tokens_per_row=counts,
    )


def test_only_steps_before_a_rows_end_are_summed() -> None:
    run = run_of([[[9, 9], [5, 7]], [[9, 9], [4, 1]], [[9, 9], [3, 1]]])
    sums = token_sums(run, torch.tensor([3, 1]))
    assert sums["decode"] == [4 * 9, 5 + 4 + 3 + 7]
    assert (sums["rows"], sums["total"], sums["decode_steps"]) == (2, 18, 4)


def test_each_step_has_the_answers_that_get_there() -> None:
    run = run_of([[[9, 9], [5, 7]], [[9, 9], [4, 1]], [[9, 9], [3, 1]]])
    sums = token_sums(run, torch.tensor([2, 1]))
    assert sums["by_step"] == [[2, 162, 18, 18], [2, 74, 18, 12], [1, 16, 9, 4]]
    means, _ = means_and_work([sums, token_sums(run, torch.tensor([3, 0]))])
    assert means is not None
    assert means["by_step"] == {
        "answers": [4, 3, 2, 1],
        "mean": [[9, 9], [9, 5.6667], [9, 4], [9, 3]],
        "deviation": [0, 0.9428, 0, 0],
    }


def test_an_answer_of_several_beams_counts_their_mean() -> None:
    run = run_of([[[9, 9, 9, 9], [1, 2, 5, 6]], [[9, 9, 9, 9], [3, 6, 8, 8]]])
    sums = token_sums(run, torch.tensor([2, 1]))
    assert sums["decode"] == [3 * 9, 1.5 + 4.5 + 5.5]
    assert sums["decode_steps"] == 3
    assert sums["by_step"] == [[2, 162, 18, 18], [2, 32.5, 18, 7], [1, 20.25, 9, 4.5]]


def sums_of(model: Any, method: Any, inputs: dict[str, torch.Tensor]) -> TokenSums:
    with method(model) as run:
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=ENDS)
    return token_sums(run, decode_steps(ids[:, inputs["input_ids"].shape[1] :], ENDS))


@pytest.mark.parametrize("method", [EvictSome(), SelectSome()], ids=lambda method: method.label)
def test_a_batch_sums_to_what_its_rows_have_alone(method: Any) -> None:
    model, inputs = tiny_llava(), tiny_inputs([7, 3, 12, 5])
    batch = sums_of(model, method, inputs)
    alone = [sums_of(model, method, row_of(inputs, row)) for row in range(4)]
    assert len({one["decode_steps"] for one in alone}) > 1  # or the test says nothing
    total = None
    for one in alone:
        total = add(total, one)
    assert batch == total
    assert means_and_work([batch]) == means_and_work(alone)
