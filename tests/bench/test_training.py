"""What a step of training takes is measured on the trainer itself; times and memory are never asserted."""

import json
from pathlib import Path

import pytest
import torch

from dyrate.bench.models import random_model
from dyrate.bench.training import measure as measuring
from dyrate.bench.training.job import TrainingBench
from dyrate.bench.training.measure import measure_training
from dyrate.cli import main
from dyrate.cost.shapes import LLAVA, ModelShape, TextShape
from dyrate.speed.documents import Limits
from dyrate.speed.training import TrainingCost, TrainingDocument
from tests.bench.test_bench import TINY

LIMITS = Limits(bytes_per_second=1e9, flops_per_second=1e9)
JOB = {
    "shape": "llava-1.5-7b",
    "dtype": "float32",
    "prompt": 24,
    "batch": (3,),
    "answer": (4,),
    "steps": 2,
    "warmups": 1,
}


def job(**changed):
    return TrainingBench.of({**JOB, "recipe": {"rates": 8, "hidden": 8}, **changed})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_reach_the_predictor_and_steps_are_counted(dtype):
    model = random_model(TINY, torch.device("cpu"), getattr(torch, dtype))

    (row,) = measure_training(model, job(dtype=dtype), 3, 4, LIMITS)

    assert (row.part, row.batch, row.prompt, row.answer) == ("rate", 3, 24, 4)
    assert (len(row.seconds), row.peak_bytes) == (2, None)
    assert row.reached > 0.5
    cost = TrainingCost.of(TINY, 2, 3, 24 + 4 - 1, getattr(torch, dtype).itemsize)
    assert (row.expected_bytes, row.expected_flops) == (cost.weights + cost.kept, cost.flops)
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_learned_ranking_has_a_row_of_its_own():
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    recipe = {"ranking": "linear", "rates": 8, "hidden": 8}

    ranking, rate = measure_training(model, job(recipe=recipe), 3, 4, LIMITS)

    assert (ranking.part, rate.part) == ("ranking", "rate")
    assert ranking.expected_bytes is None
    assert min(ranking.reached, rate.reached) > 0.5


def test_gradients_that_do_not_arrive_are_seen(monkeypatch):
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    advance = measuring.Trainer._rate_loss

    def cut_off(self, batch, step):
        loss, point = advance(self, batch, step)
        parameters = [*self.predictor.rate.parameters()]
        return loss.detach() + 0 * sum(p.sum() for p in parameters), point

    monkeypatch.setattr(measuring.Trainer, "_rate_loss", cut_off)

    (row,) = measure_training(model, job(), 3, 4, LIMITS)

    assert row.reached == 0


def test_what_the_backward_keeps_is_what_arithmetic_says():
    """Of tensors that autograd saves for one layer, those that are weights left out."""
    text = TextShape(
        layers=3, hidden=512, intermediate=1376, heads=4, kv_heads=4, head_dim=128, vocabulary=64
    )
    shape = ModelShape(text, TINY.vision)
    model = random_model(shape, torch.device("cpu"), torch.float32)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept(layer):
        saved = {}

        def keep(tensor):
            storage = tensor.untyped_storage()  # held, so that its address stays its own
            saved[storage.data_ptr()] = storage
            return tensor

        asked = job(recipe={"rates": 8, "hidden": 8, "layer": layer}, steps=1, warmups=0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            measure_training(model, asked, 3, 4, LIMITS)
        return sum(storage.nbytes() for address, storage in saved.items() if address not in weights)

    one, other = (TrainingCost.of(shape, layer, 3, 27, 4).kept for layer in (1, 2))

    # The CPU has no fused kernel for a bias with gradients, which keeps a little more.
    assert kept(1) - kept(2) == pytest.approx(one - other, rel=0.15)


def test_the_published_shapes_fit_where_the_config_says():
    seven, thirteen = (TrainingCost.of(shape, 2, 8, 640 + 31, 2) for shape in LLAVA.values())

    assert [round((cost.weights + cost.kept) / 2**30) for cost in (seven, thirteen)] == [34, 58]
    assert [round(cost.flops / 1e12) for cost in (seven, thirteen)] == [142, 275]


def test_the_document_is_what_is_printed_and_reads_back(monkeypatch, tmp_path: Path, capsys):
    from dyrate.bench import models

    monkeypatch.setitem(models.SHAPES, "llava-1.5-7b", TINY)
    found = []

    def measured(model, job, batch, answer, limits):
        if batch == 99:
            raise torch.OutOfMemoryError("no")
        found.extend(measure_training(model, job, batch, answer, limits))
        return found[-1:]

    monkeypatch.setattr(measuring, "measure_training", measured)
    output = tmp_path / "training/tiny.json"
    line = f"bench-training --shape llava-1.5-7b --prompt 24 --answer 4 --batch 2 99 --output {output}"

    assert main([*line.split(), "--steps", "1", "--warmups", "0", "--recipe", '{"rates": 8}']) == 0

    printed = capsys.readouterr()
    document = json.loads(printed.out.splitlines()[-1])
    assert document == json.loads(output.read_text("utf-8"))
    assert (document["schema"], document["too_large"]) == ("dyrate.bench_training", [99])
    assert "batch 99, answers of 4: does not fit into memory" in printed.err
    del document["schema"], document["version"]
    assert TrainingDocument.of(document).rows == tuple(found)


def test_an_unfit_recipe_is_refused_before_a_model_is_made(capsys):
    line = ["bench-training", "--shape", "llava-1.5-7b", "--recipe", '{"layers": 2}']

    assert main(line) == 2
    assert "--recipe: layers is unknown; did you mean 'layer'?" in capsys.readouterr().err
