"""On a GPU: the same tokens as on the CPU, and decode steps that never wait for the device."""

from typing import Any

import pytest
import torch

from tests.runtime.example_rules import Reader
from tests.runtime.method_table import CASES, Case, prompts
from tests.tiny import tiny_inputs, tiny_llava

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method.label)
def test_a_gpu_gives_what_the_cpu_gives(case: Case) -> None:
    found: list[tuple[Any, ...]] = []
    for device in ("cpu", "cuda"):
        model = tiny_llava().to(device)
        inputs = prompts(case, tiny_inputs([7, 3, 11], images=[1, 2, 0]))
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        with case.method(model, questions=Reader()) as run:
            tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        kept = {layer: [row.tolist() for row in rows] for layer, rows in run.kept.items()}
        found.append((tokens.tolist(), kept, run.kv_lengths.tolist()))
    assert found[0] == found[1]


AT_PREFILL = [case for case in CASES if not case.method.needs(6).decode]


@pytest.mark.parametrize("case", AT_PREFILL, ids=lambda case: case.method.label)
def test_decode_steps_do_not_synchronise(case: Case) -> None:
    """Methods that drop at decode are left out: the host must know how many tokens the step has."""
    model = tiny_llava().to("cuda")
    inputs = {name: tensor.to("cuda") for name, tensor in prompts(case, tiny_inputs([7, 3])).items()}
    token = torch.tensor([[5], [6]], device="cuda")
    with torch.no_grad(), case.method(model, questions=Reader()):
        cache = model(**inputs).past_key_values
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                model(input_ids=token, past_key_values=cache)
        finally:
            torch.cuda.set_sync_debug_mode("default")
