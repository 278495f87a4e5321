"""Claims: training learns, resumes to the byte, keeps to its clock, and leaves an ordinary LLaVA behind."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from dyrate.errors import DyrateError
from dyrate.testbed.models import progress, training
from dyrate.testbed.models.architecture import SIZES, build_clip, build_model
from dyrate.testbed.models.card import write_card
from dyrate.testbed.models.packing import Packer
from dyrate.testbed.models.recipe import RECIPES, Machine
from dyrate.testbed.models.schedule import LearningRatePlan
from dyrate.testbed.models.stream import TrainingStream, world_tokenizer
from dyrate.testbed.models.tokenizer import caption_tokenizer
from dyrate.testbed.models.training import train
from dyrate.testbed.world.examples import training_example, validation_example

RECIPE = replace(RECIPES["testbed-tiny"], steps=20, peak_learning_rate=3e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Directory with an undisturbed run: `checkpoint`, and the finished `model`."""
    directory = tmp_path_factory.mktemp("trained")
    train(RECIPE, Machine(), directory / "checkpoint", directory / "model", held_out_examples=8)
    return directory


def test_the_loss_falls(trained):
    record = json.loads((trained / "model" / "training.json").read_text())
    untrained = torch.log(torch.tensor(float(record["tokens"]))).item()
    assert record["curve"][-1]["loss"] < untrained - 0.5
    assert record["completed"]
    assert record["images"] == 160


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bytes(trained, tmp_path):
    stopped = train(RECIPE, Machine(), tmp_path / "checkpoint", tmp_path / "model", stop_after=7)
    assert stopped is None
    assert not (tmp_path / "model").exists()
    record = train(RECIPE, Machine(), tmp_path / "checkpoint", tmp_path / "model", held_out_examples=8)
    assert record["resumed"] == 1
    for name in ("model.safetensors", "config.json", "tokenizer.json", "processor_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (trained / "model" / name).read_bytes(), name


def test_a_checkpoint_of_another_recipe_is_refused(trained, tmp_path):
    with pytest.raises(DyrateError, match=r"seed: 0 there, 1 now.*--checkpoint"):
        train(replace(RECIPE, seed=1), Machine(), trained / "checkpoint", tmp_path)


def test_the_saved_model_loads_as_any_llava_and_generates(trained):
    processor = AutoProcessor.from_pretrained(trained / "model", backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(trained / "model", dtype=torch.float32)
    examples = [validation_example(0, index) for index in range(2)]
    prompts = [f"USER: <image>\n{'Well, ' * n}what is this? ASSISTANT:" for n in range(2)]
    images = [Image.fromarray(example.image) for example in examples]
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt")
    assert inputs["attention_mask"][0, 0] == 0, "padding is on the left"
    written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert written.shape[1] > inputs["input_ids"].shape[1]
    assert model.dtype == torch.float32
    assert AutoModelForImageTextToText.from_pretrained(trained / "model").dtype == torch.float16


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_does_not_depend_on_the_number_of_workers(workers):
    stream = TrainingStream(Packer(world_tokenizer(20), 512), seed=5, batch_size=2, least_spacing=0.1)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, sampler=range(3, 6), num_workers=workers)
    for step, batch in enumerate(loader, start=3):
        expected = [training_example(5, 2 * step + row).image for row in range(2)]
        assert all((batch.images[row].numpy() == expected[row]).all() for row in range(2))


def test_both_models_fit_in_the_repository():
    tokenizer = world_tokenizer(100)
    size = 0
    for name in ("testbed-s", "testbed-m"):
        with torch.device("meta"):
            model = build_model(SIZES[name], tokenizer, seed=0)
            clip = build_clip(SIZES[name], caption_tokenizer(tokenizer), seed=0)
        assert model.config.text_config.vocab_size <= 1024
        missing = 2 * (1024 - model.config.text_config.vocab_size) * SIZES[name].text_width
        missing += (1024 - clip.config.text_config.vocab_size) * SIZES[name].vision_width
        size += 2 * (model.num_parameters() + clip.num_parameters() + missing)
    assert size < 46_000_000 - 400_000, "half precision, and room for tokenizers and records"


def test_the_weights_are_a_function_of_the_seed():
    tokenizer = world_tokenizer(20)
    first, again, other = (
        build_model(SIZES["testbed-tiny"], tokenizer, seed).lm_head.weight for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class TestPlan:
    def test_warm_up_plateau_decay(self):
        plan = LearningRatePlan(decay_start=80, steps=100)
        rates = [plan.learning_rate(step, 1.0, 10) for step in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[9:80] == [1.0] * 71
        assert rates[90] == pytest.approx(0.5)
        assert 0 < rates[99] <= 0.05

    def test_the_decay_starts_when_most_of_the_time_is_spent(self):
        plan = LearningRatePlan(decay_start=14_000, steps=20_000)
        assert plan.within(600, 69.9, 100, 10.0, 0.3) == plan
        assert plan.within(700, 70.0, 100, 10.0, 0.3) == LearningRatePlan(decay_start=700, steps=1000)

    def test_a_decay_once_begun_is_kept(self):
        plan = LearningRatePlan(decay_start=700, steps=1000)
        assert plan.within(800, 99.0, 100, 1.0, 0.3) == plan

    def test_a_fast_run_ends_at_its_steps(self):
        assert LearningRatePlan(900, 1000).within(800, 70.0, 100, 1000.0, 0.3) == LearningRatePlan(800, 1000)


@pytest.mark.slow
def test_a_run_under_a_clock_records_the_steps_it_took(tmp_path, monkeypatch):
    readings = itertools.count()  # a clock that goes on by 50 ms whenever somebody looks
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: 0.05 * next(readings)))
    monkeypatch.setattr(progress, "LOOK_EVERY", 4)
    monkeypatch.setattr(training, "LOOK_EVERY", 4)
    machine = Machine(minutes=0.1)
    recipe = replace(RECIPE, steps=5000, decay_steps=1500)
    record = train(recipe, machine, tmp_path / "checkpoint", tmp_path / "model", held_out_examples=2)
    plan = record["plan"]
    assert record["completed"]
    assert plan["decay_start"] < plan["steps"] < 100
    assert record["images"] == 8 * plan["steps"]


def test_the_card_says_what_the_model_is_not(trained):
    card = write_card(trained / "model").read_text()
    assert "It is **not** LLaVA-1.5" in card
    assert "| kind | right, % | asked |" in card
    assert "--decay-steps 6" in card


def test_the_card_says_when_the_model_saw_another_world(trained, tmp_path):
    record = json.loads((trained / "model" / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert "has changed since" not in write_card(tmp_path).read_text()
    (tmp_path / "training.json").write_text(json.dumps(record | {"data_sha256": "0" * 64}))
    assert "has changed since" in write_card(tmp_path).read_text()


def test_a_card_needs_a_training_record(tmp_path):
    with pytest.raises(DyrateError, match="dyrate testbed train"):
        write_card(tmp_path)
