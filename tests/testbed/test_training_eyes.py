"""Claims: the tower learns by CLIP's loss and LLaVA's, in the recipe's stages, and CLIP's rest is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, CLIPModel

from dyrate.clip import clip_model
from dyrate.errors import DyrateError
from dyrate.question_reader import QuestionReader
from dyrate.testbed.models.card import write_card
from dyrate.testbed.models.contrast import LARGEST_SCALE, Retrieval, contrastive_loss, similarities
from dyrate.testbed.models.recipe import RECIPES, Machine
from dyrate.testbed.models.task import Task
from dyrate.testbed.models.training import ModelTrainer, train
from dyrate.testbed.world.examples import validation_example

RECIPE = replace(RECIPES["testbed-tiny"], batch_size=4, warmup_steps=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(RECIPE, CPU)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eyes")
    train(replace(RECIPE, steps=2), Machine(), folder / "checkpoint", folder / "model", held_out_examples=4)
    return folder / "model"


def trainer(tmp_path, **changes) -> ModelTrainer:
    return ModelTrainer(Task(replace(RECIPE, **changes), CPU), Machine(), tmp_path)


def test_the_tower_is_read_as_transformers_reads_it(task):
    batch = task.stream[0]
    with torch.no_grad():
        seen = task.see(batch)
        whole = task.model.model.vision_tower(pixel_values=task.pixels(batch), output_hidden_states=True)
    assert torch.equal(seen.features, whole.hidden_states[-2])
    assert torch.equal(seen.pooled, whole.pooler_output)


def test_similarities_and_loss_are_those_of_a_clip_model(task):
    batch = task.stream[0]._replace(captioned=torch.ones(4, dtype=torch.bool))
    clip = CLIPModel(task.clip.config)
    clip.load_state_dict(task.clip.state_dict(), strict=False)
    clip.vision_model = task.model.model.vision_tower
    with torch.no_grad():
        expected = clip(input_ids=batch.captions, pixel_values=task.pixels(batch), return_loss=True)
        scores = similarities(task.clip, task.see(batch).pooled, batch.captions)
        torch.testing.assert_close(scores, expected.logits_per_text)
        torch.testing.assert_close(contrastive_loss(scores, batch.captioned), expected.loss)


def test_pictures_without_a_caption_are_no_part_of_the_loss():
    torch.manual_seed(0)
    scores, captioned = torch.randn(5, 5, requires_grad=True), torch.tensor([True, False, True, True, False])
    kept = captioned.nonzero().flatten()
    loss = contrastive_loss(scores, captioned)
    torch.testing.assert_close(loss, contrastive_loss(scores[kept][:, kept], torch.ones(3, dtype=torch.bool)))
    loss.backward()
    assert (scores.grad[~captioned] == 0).all()
    assert (scores.grad[:, ~captioned] == 0).all()
    assert contrastive_loss(scores, torch.zeros(5, dtype=torch.bool)) == 0


def test_retrieval_counts_both_ways_and_no_ties():
    scores = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    assert Retrieval.of(scores) == Retrieval(pairs=3, pictures_found=2, captions_found=3)


def moved(trainer: ModelTrainer, steps: int) -> dict[str, bool]:
    """Train, and say which parts have changed."""
    parts = {
        "tower": trainer.task.model.model.vision_tower,
        "projector": trainer.task.model.model.multi_modal_projector,
        "language": trainer.task.model.model.language_model,
        "captions": trainer.task.clip.text_model,
    }
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    for step in range(trainer.progress.step, trainer.progress.step + steps):
        trainer.advance(trainer.task.stream[step])
    return {
        name: any(not torch.equal(p, q) for p, q in zip(part.parameters(), before[name], strict=True))
        for name, part in parts.items()
    }


def test_everything_is_trained_at_once(tmp_path):
    assert all(moved(trainer(tmp_path), 1).values())


def test_without_the_contrastive_loss_captions_train_nothing(tmp_path):
    assert moved(trainer(tmp_path, contrast_weight=0.0), 1) == {
        "tower": True,
        "projector": True,
        "language": True,
        "captions": False,
    }


def test_eyes_first_then_frozen(tmp_path):
    recipe = trainer(tmp_path, contrast_steps=2, tower_rate=0.0)
    assert moved(recipe, 2) == {"tower": True, "projector": False, "language": False, "captions": True}
    assert moved(recipe, 1) == {"tower": False, "projector": True, "language": True, "captions": False}


def test_a_slow_tower_moves_less(tmp_path):
    def way(rate: float) -> float:
        run = trainer(tmp_path / str(rate), contrast_steps=1, tower_rate=rate)
        run.advance(run.task.stream[0])
        weight = run.task.model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
        before = weight.detach().clone()
        run.advance(run.task.stream[1])
        return (weight - before).abs().mean().item()

    assert way(0.1) == pytest.approx(way(1.0) / 10, rel=0.01)


def test_the_temperature_stays_within_clips_bound(tmp_path):
    run = trainer(tmp_path)
    with torch.no_grad():
        run.task.clip.logit_scale.fill_(9.0)
    run.advance(run.task.stream[0])
    assert run.task.clip.logit_scale <= LARGEST_SCALE


def test_the_saved_half_makes_a_whole_with_the_models_own_tower(saved, capfd):
    model = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32)
    capfd.readouterr()
    tokenizer, clip = clip_model(saved, model.model.vision_tower)
    assert "LOAD REPORT" not in capfd.readouterr().err
    assert isinstance(clip, CLIPModel)
    assert clip.vision_model is model.model.vision_tower
    text = next(turn.answer for turn in validation_example(0, 0).turns if turn.kind == "caption")
    with torch.no_grad():
        ids = tokenizer([text], return_tensors="pt").input_ids
        features = clip.get_text_features(ids).pooler_output[0]
        pictures = clip.get_image_features(torch.zeros(1, 3, 168, 168)).pooler_output
    assert pictures.shape == (1, 32)
    torch.testing.assert_close(
        QuestionReader.of(tokenizer, saved).features([text])[0].float(), features, atol=1e-2, rtol=0
    )


def test_another_models_half_is_refused(saved, task):
    other = Task(replace(RECIPE, model="testbed-s"), CPU).model.model.vision_tower
    with pytest.raises(
        DyrateError, match=r"clip: is half of a CLIP whose vision tower has hidden_size 32.*160"
    ):
        clip_model(saved, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contrast_weight", -1.0),
        ("contrast_weight", float("nan")),
        ("contrast_steps", RECIPE.steps),
        ("tower_rate", 1.5),
        ("least_spacing", 0.0),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(name, value):
    with pytest.raises(DyrateError, match=f"{name}: {value} is not "):
        replace(RECIPE, **{name: value})


def test_a_card_prints_the_command_of_its_recipe(tmp_path):
    recipe = replace(RECIPE, steps=2, contrast_steps=1, tower_rate=0.1, least_spacing=1.0)
    train(recipe, Machine(), tmp_path / "checkpoint", tmp_path / "model", held_out_examples=2)
    text = write_card(tmp_path / "model").read_text()
    assert "--contrast-steps 1 --tower-rate 0.1 --least-spacing 1 --output DIR" in text
    assert "--contrast-weight" not in text
    assert "The first 1 steps train CLIP's two towers alone" in text
