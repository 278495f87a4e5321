"""The engine gives what `model.generate()` gives: same tokens, same run, for every method."""

import pandas as pd
import pytest
import torch

from dyrate.engine.engine import Engine
from tests.runtime.method_table import CASES, Case
from tests.tiny import tiny_inputs, tiny_llava

ROWS = {"rows": [7, 3, 11], "images": [1, 2, 0]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method.label)
def test_tokens_and_run_are_those_of_generate(case: Case) -> None:
    model, inputs = tiny_llava(), tiny_inputs(**ROWS)
    record = [0, 3]
    with case.method(model, record) as expected:
        tokens = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    found, run = Engine(model).generate(case.method, inputs, max_new_tokens=9, record=record)
    assert found.tolist() == tokens.tolist()
    assert run.kv_lengths.tolist() == expected.kv_lengths.tolist()
    for layer, rows in expected.kept.items():
        assert [row.tolist() for row in run.kept[layer]] == [row.tolist() for row in rows]
    assert torch.equal(run.decode_tokens_per_row, expected.decode_tokens_per_row)
    for layer, mass in expected.class_mass.items():
        torch.testing.assert_close(run.class_mass[layer], mass, rtol=0, atol=1e-5)
    pd.testing.assert_frame_equal(run.steps, expected.steps, atol=1e-5)
