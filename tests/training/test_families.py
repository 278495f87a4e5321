"""Teacher forcing on every family: images of any size, in tiles or merged, positions of several axes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.requests import Request
from dyrate.methods.dyrate import DyRate
from dyrate.methods.none import NoReduction
from dyrate.predictor_training.batch import Batch
from dyrate.predictor_training.job import Training
from dyrate.predictor_training.objective import answer_loss, run_pruned
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.teacher_forcing import teacher_forced
from dyrate.predictor_training.token_gates import Relaxation, gumbel, hard
from dyrate.predictor_training.train import train_predictor
from dyrate.predictors import load_predictor, save_predictor
from dyrate.reduction import ReductionMethod, Run
from tests.evaluation.family_checkpoints import family_checkpoint
from tests.tiny import IMAGE
from tests.tiny_families import TINY, Subject
from tests.training.classroom import answers_of, forced, wild_predictor

LENGTHS = [6, 4, 2, 5]


def batch_of(subject: Subject) -> Batch:
    return Batch.of(subject.inputs, answers_of(LENGTHS), IMAGE)


def generated(subject: Subject, method: ReductionMethod, record: Any = ()) -> tuple[torch.Tensor, Run]:
    """Logits [batch, T, vocabulary] of the answers, step by step."""
    with method(subject.model, record) as run:
        made = subject.model.generate(
            **subject.inputs,
            max_new_tokens=max(LENGTHS),
            do_sample=False,
            logits_processor=forced(answers_of(LENGTHS)),
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(made.logits, dim=1), run


@pytest.mark.parametrize("name", TINY)
def test_a_pass_whose_gates_are_open_is_the_stock_model(name: str) -> None:
    """Step by step under `generate`, in a left-padded batch: one, two, no and one image per row."""
    subject = TINY[name].subject
    batch, layers = batch_of(subject), (1, 4)
    before = {id(module): sorted(vars(module)) for module in subject.model.modules()}
    expected, run = generated(subject, NoReduction(), record=layers)
    predictor = wild_predictor()
    with torch.no_grad():
        predictor.rate.head[-1].bias.copy_(torch.tensor([1e4] + [0.0] * 7))
    with teacher_forced(subject.model) as frozen, torch.no_grad():
        logits, statistics = frozen.observe(batch, layers)
        opened = run_pruned(frozen, predictor, Recipe(), batch, hard)
    assert (opened.gates.steps.sum(dim=2)[:, 0] == torch.tensor(subject.visual)).all()
    for found in (logits, opened.logits):
        assert (found - expected)[batch.asked].abs().max() < 1e-4
    for layer in layers:
        mass = torch.stack(list(run.class_mass[layer]), dim=1)
        assert (statistics[layer].class_mass - mass)[batch.asked].abs().max() < 1e-5
    assert before == {id(module): sorted(vars(module)) for module in subject.model.modules()}
    assert getattr(subject.model.model, "rope_deltas", None) is None or name.startswith("qwen")


@pytest.mark.parametrize("mode", ["evict", "select"])
@pytest.mark.parametrize("name", TINY)
def test_hard_gates_are_tokens_that_are_dropped(name: str, mode: Any, tmp_path: Path) -> None:
    subject, predictor = TINY[name].subject, wild_predictor(1, layer=2, ranking="linear")
    save_predictor(predictor, tmp_path, {"schedule": [0.5]})
    batch = batch_of(subject)
    expected, run = generated(subject, DyRate(predictor=str(tmp_path), mode=mode))
    assert min(run.kept[2][row].numel() for row in (0, 1, 3)) < min(subject.visual[:2])
    with teacher_forced(subject.model) as frozen, torch.no_grad():
        pruned = run_pruned(frozen, predictor, Recipe(mode=mode), batch, hard)
    assert (pruned.logits - expected)[batch.asked].abs().max() < 1e-4
    assert len(pruned.rate_logits.argmax(-1)[batch.asked].unique()) > 1


@pytest.mark.parametrize("estimator", ["straight_through", "soft_gradient", "scaled_features"])
@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_the_predictor_and_nothing_else(name: str, estimator: Any) -> None:
    subject, predictor = TINY[name].subject, wild_predictor(kind="mlp")
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.mul_(0.1)  # so that no rate is nearly certain
    batch, drawn = batch_of(subject), torch.tensor([0, 2, 1, 3])
    noise = gumbel((4, batch.steps, 8), torch.Generator().manual_seed(0))
    relax = Relaxation(noise, 5.0, estimator, drawn if estimator == "scaled_features" else None)
    with teacher_forced(subject.model) as frozen:
        pruned = run_pruned(frozen, predictor, Recipe(estimator=estimator), batch, relax)
        answer_loss(pruned.logits, batch).backward()
    gradients = [parameter.grad for parameter in predictor.rate.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 1e-5
    assert all(parameter.grad is None for parameter in subject.model.parameters())


@pytest.mark.parametrize("name", TINY)
def test_a_checkpoint_trains_a_predictor_and_answers_with_it(name: str, tmp_path: Path) -> None:
    """By its own processor, on images of several sizes; by both engines, in a batch and alone."""
    folder = family_checkpoint(name, tmp_path / name)
    examples = [
        (f"{number}.png", Image.effect_noise(size, 60).convert("RGB"), f"What is {'this, ' * number}?")
        for number, size in enumerate([(28, 28), (56, 30), (20, 50), (28, 40)])
    ]
    for file, image, _ in examples:
        image.save(tmp_path / file)
    lines = [{"image": file, "question": text, "answer": "a colour"} for file, _, text in examples]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    recipe = {"steps": 3, "batch_size": 2, "validation_examples": 1, "layer": 2, "hidden": 4, "rates": 4}
    job = Training(model=str(folder), recipe=recipe, data=data, device="cpu", output=tmp_path / "out")

    record = train_predictor(job)

    assert record is not None
    assert record["curve"][-1]["loss"] > 0
    assert load_predictor(tmp_path / "out").parameters_count == record["parameters"]
    told = []
    method = {"name": "dyrate", "layer": 2, "predictor": str(tmp_path / "out")}
    for engine in ("transformers", "graph"):
        model = DyrateModel(str(folder), method, device="cpu", batch_size=4, engine=engine)
        questions = [
            model.question(Request(text, "{}", list, 0, "gqa", "test"), [image])
            for _, image, text in examples
        ]
        told.append(model.answer(model.setting, questions, 6)[0])
        told.append([model.answer(model.setting, [question], 6)[0][0] for question in questions])
    assert told == [told[0]] * 4
