"""A model whose layers are on two devices gives what it gives on one, under every method."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from tests.runtime.example_rules import Reader
from tests.runtime.method_table import CASES, PROBES, Case, prompts
from tests.tiny import tiny_inputs, tiny_llava

ROOT = Path(__file__).parents[2]
SECOND = (
    *(f"model.language_model.{part}" for part in ("layers.3", "layers.4", "layers.5", "norm", "rotary_emb")),
    "lm_head",
)


def generated(model: Any, case: Case, beams: int, device: str = "cpu") -> tuple[list[Any], np.ndarray]:
    inputs = prompts(case, tiny_inputs([7, 3, 11], images=[1, 2, 0]))
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    with case.method(model, questions=Reader()) as run:
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=beams)
    kept = {layer: [row.tolist() for row in rows] for layer, rows in run.kept.items()}
    counts = [run.kv_lengths.tolist(), run.decode_tokens_per_row.tolist()]
    return [tokens.tolist(), kept, *counts], run.steps.fillna(-1).to_numpy()


def differ(case: Case, one: Any, two: Any, device: str = "cpu") -> bool:
    """Whether a case gives something else on the second model; probes of the runtime, under beams."""
    beams = 2 if case in PROBES else 1
    (wanted, steps), (found, other) = generated(one, case, beams, device), generated(two, case, beams, device)
    return found != wanted or not np.allclose(steps, other, atol=1e-5)


@pytest.mark.slow
def test_two_devices_give_what_one_gives() -> None:
    """In a process of its own: a second device is known to all of it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.test_spread"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{len([*CASES, *PROBES])} cases on two devices" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("case", [*CASES, *PROBES], ids=lambda case: case.method.label)
def test_two_gpus_give_what_one_gives(case: Case) -> None:
    places = dict.fromkeys(SECOND, 1) | dict.fromkeys(
        (
            *("model.vision_tower", "model.multi_modal_projector", "model.language_model.embed_tokens"),
            *(f"model.language_model.layers.{layer}" for layer in range(3)),
        ),
        0,
    )
    one, two = tiny_llava().to("cuda:0"), dispatch_model(tiny_llava(), places, main_device="cuda:0")
    assert {layer.self_attn.q_proj.weight.device.index for layer in two.model.language_model.layers} == {0, 1}
    assert not differ(case, one, two, "cuda:0")


def main() -> int:
    from tests.runtime.two_devices import spread, two_devices

    failed, one, two = 0, tiny_llava(), spread(tiny_llava(), SECOND)
    cases = [*CASES, *PROBES]
    for case in cases:
        try:
            with two_devices():
                wrong = "other results" if differ(case, one, two) else ""
        except Exception as error:  # noqa: BLE001 - the others are looked at, too
            wrong = f"{type(error).__name__}: {error}"[:600]
        failed += bool(wrong)
        if wrong:
            sys.stdout.write(f"{case.method}: {wrong}\n")
    sys.stdout.write(f"{len(cases)} cases on two devices\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
