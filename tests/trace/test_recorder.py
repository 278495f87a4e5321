"""What is taken from a batch is what each row alone would have given, up to its own end."""

from typing import Any

import numpy as np
import pytest
import torch

from dyrate import NoReduction
from dyrate.trace.recorder import Recorder
from tests.tiny import NUM_LAYERS, PAD, row_of, tiny_inputs, tiny_llava

ENDS = list(range(3, 40))  # so many that rows end at different steps
NEW = 6


def record(
    model: Any, inputs: dict[str, torch.Tensor], doc_ids: list[int], recorder: Recorder
) -> torch.Tensor:
    with torch.no_grad(), NoReduction()(model, record=range(NUM_LAYERS)) as run:
        ids = model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=ENDS, pad_token_id=PAD
        )
    made = ids[:, inputs["input_ids"].shape[1] :]
    recorder(doc_ids, run, made, ENDS)
    return made


@pytest.fixture(scope="module")
def recorded() -> tuple[Recorder, dict[int, Recorder], torch.Tensor]:
    model, inputs = tiny_llava(), tiny_inputs([7, 3, 20, 5])
    whole, alone = Recorder(), {row: Recorder() for row in range(4)}
    made = record(model, inputs, [10, 11, 12, 13], whole)
    for row, recorder in alone.items():
        record(model, row_of(inputs, row), [row], recorder)
    return whole, alone, made


def test_rows_are_recorded_up_to_their_own_end(
    recorded: tuple[Recorder, dict[int, Recorder], torch.Tensor],
) -> None:
    whole, alone, made = recorded
    lengths = []
    for row in range(4):
        tokens = made[row].tolist()
        steps = next((i + 1 for i, token in enumerate(tokens) if token in ENDS), len(tokens))
        lengths.append(steps)
        found = whole.samples[10 + row]
        assert found.shape == (steps, NUM_LAYERS, 4)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, alone[row].samples[row], atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert len(set(lengths)) > 1, "every row ended at the same step: the test says nothing"


def test_heads_are_means_over_the_rows_that_have_the_step(
    recorded: tuple[Recorder, dict[int, Recorder], torch.Tensor],
) -> None:
    whole, alone, _ = recorded
    heads = whole.heads
    assert heads.shape == (max(map(len, whole.samples.values())), NUM_LAYERS, 4, 4)
    for step in range(len(heads)):
        rows = [recorder.heads[step] for recorder in alone.values() if len(recorder.heads) > step]
        np.testing.assert_allclose(heads[step], np.mean(rows, axis=0), atol=1e-5)


def test_response_mass_is_none_at_the_first_step_and_some_after(
    recorded: tuple[Recorder, dict[int, Recorder], torch.Tensor],
) -> None:
    for found in recorded[0].samples.values():
        assert (found[0, :, 3] == 0).all()
        assert (found[1:, :, 3] > 0).all()
