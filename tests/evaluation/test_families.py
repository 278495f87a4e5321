"""Checkpoints of other families: each loads; one that sees images in tiles is evaluated like any other."""

import json
from pathlib import Path

import pytest
import torch

from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.checkpoint import load_model
from dyrate.evaluation.evaluate import evaluate_loaded, load
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.job import Evaluation
from tests.evaluation.stand_ins import SIZE, VISUAL, make_checkpoint
from tests.tiny_families import TINY


@pytest.mark.parametrize("name", TINY)
def test_a_model_of_each_family_loads(name: str, tmp_path: Path) -> None:
    subject = TINY[name].subject
    subject.model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.device("cpu"), "float32")
    with torch.no_grad():
        assert torch.equal(loaded(**subject.rows[0]).logits, subject.model(**subject.rows[0]).logits)


def test_images_in_tiles_are_evaluated(data: Path, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiled", pinpoints=[[SIZE, 2 * SIZE], [2 * SIZE, SIZE]])
    job = Evaluation.of(
        {
            "model": str(folder),
            "method": {"name": "fastv", "layer": 1, "rate": 0.5},
            "benchmarks": ("gqa",),
            "data": data,
            "batch_size": 5,
            "device": "cpu",
            "study": "test",
            "output": tmp_path / "out",
        }
    )
    evaluate_loaded(job, load(job), load_tasks(select(("gqa",)), "testbed", data, None))
    found = json.loads((tmp_path / "out/greedy.json").read_text())
    (task,) = found["benchmarks"].values()
    # Squares: the whole image, and as many patches of a tile, with a newline after both rows.
    whole = 2 * VISUAL + 2
    assert task["visual_tokens"]["total"] == whole
    assert task["work"]["prefill"]["encoding"] > 0
