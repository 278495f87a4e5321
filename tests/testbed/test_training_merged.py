"""Claims: a model of a second family learns from images of several sizes, packed as its own code has it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from dyrate.errors import DyrateError
from dyrate.evaluation.processor import load_processor
from dyrate.evaluation.prompts import PromptStyle
from dyrate.methods.fastv import FastV
from dyrate.testbed.models.card import write_card
from dyrate.testbed.models.qwen_packing import SIDES, SIZES, TOKEN, MergedPacker, sizes_of
from dyrate.testbed.models.qwen_task import MergedTask
from dyrate.testbed.models.recipe import RECIPES, Machine
from dyrate.testbed.models.training import train
from dyrate.testbed.world.examples import training_example, validation_example

CPU = torch.device("cpu")
RECIPE = replace(RECIPES["testbed-q-tiny"], steps=12, decay_steps=3, peak_learning_rate=5e-3)


@pytest.fixture(scope="module")
def task():
    return MergedTask(RECIPE, CPU)


@pytest.fixture(scope="module")
def batch(task):
    """Of each size one image, with its turns."""
    examples = [training_example(7, index) for index in range(len(SIZES))]
    return examples, *task.packer.batch(examples)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Directory with an undisturbed run: `checkpoint`, and the finished `model`."""
    directory = tmp_path_factory.mktemp("trained")
    train(RECIPE, Machine(), directory / "checkpoint", directory / "model", held_out_examples=9)
    return directory


def inputs_of(task, image, text):
    prompt = PromptStyle.of(task.processor, "qwen2_5_vl").render(text, 1)
    return task.processor(text=[prompt], images=[image], return_tensors="pt")


def test_packed_logits_are_those_of_each_turn_alone_at_every_size(task, batch):
    examples, packed, placed = batch
    with torch.inference_mode():
        together = task.logits(packed)
    for row, (example, size) in enumerate(zip(examples, SIZES, strict=True)):
        image = Image.fromarray(example.image).resize(size[::-1], Image.Resampling.BICUBIC)
        for number, turn in [*enumerate(placed[row], start=1)][:3]:
            inputs = inputs_of(task, image, turn.prompt)
            answer = task.tokenizer(f"{turn.answer}<|im_end|>", return_tensors="pt").input_ids
            kinds = torch.zeros_like(answer, dtype=inputs["mm_token_type_ids"].dtype)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], kinds], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            here = (packed.segments[row] == number).nonzero().flatten()
            assert inputs["input_ids"][0, -len(here) :].tolist() == packed.input_ids[row, here].tolist()
            with torch.inference_mode():
                alone = task.model(**inputs).logits[0, -len(here) :]
            torch.testing.assert_close(together[row, here], alone, atol=1e-4, rtol=0)


def test_a_batch_has_all_sizes_whatever_the_step(task):
    """So that its shapes never change; on average an image has the tokens that a LLaVA's has."""
    assert {*sizes_of(384)} == {*SIZES}
    first, second = task.stream[0], task.stream[1]
    assert first.images.shape == second.images.shape
    assert not torch.equal(first.images, second.images)
    assert sum(height * width for height, width in SIZES) == len(SIZES) * 144 * TOKEN**2


def test_hardly_a_turn_exceeds_the_default_length(task):
    packer = MergedPacker(task.tokenizer, RECIPES["testbed-q"].pack_length)
    examples = [training_example(3, index) for index in range(90)]
    placed = sum(map(len, packer.batch(examples)[1]))
    assert placed >= 0.99 * sum(len(example.turns) for example in examples)


def test_closer_positions_are_refused_and_the_option_is_named():
    with pytest.raises(DyrateError, match=r"least_spacing: 0\.1: positions of three axes"):
        MergedTask(replace(RECIPE, least_spacing=0.1), CPU)


def test_the_loss_falls_and_the_record_says_on_what(trained):
    record = json.loads((trained / "model" / "training.json").read_text())
    untrained = torch.log(torch.tensor(float(record["tokens"]))).item()
    assert record["curve"][-1]["loss"] < untrained - 0.5
    assert record["size"]["whole_layers"] == [1]
    card = write_card(trained / "model").read_text()
    assert "It is **not** Qwen2.5-VL" in card
    assert "In every\nsecond example" not in card


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bytes(trained, tmp_path):
    again = (RECIPE, Machine(), tmp_path / "checkpoint", tmp_path / "model")
    assert train(*again, stop_after=5) is None
    train(*again, held_out_examples=9)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "processor_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (trained / "model" / name).read_bytes(), name


def test_the_saved_model_answers_about_images_of_different_sizes_in_one_batch(trained):
    """As it answers about each alone, whole and pruned."""
    processor = load_processor(trained / "model")
    model = AutoModelForImageTextToText.from_pretrained(trained / "model", dtype=torch.float32).eval()
    style = PromptStyle.of(processor, "qwen2_5_vl")
    images = [
        Image.fromarray(validation_example(0, index).image).resize(size)
        for index, size in enumerate([(140, 196), (168, 168), (90, 260)])
    ]
    prompts = [style.render(f"{'Well, ' * n}what is this?", 1) for n in range(3)]
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with FastV(layer=1, rate=0.5)(model) as run:
        together = processor(text=prompts, images=images, padding=True, return_tensors="pt")
        written = model.generate(**together, **settings)[:, -4:]
        assert run.visual_tokens.tolist() == [140, 144, 6 * 19]
        for prompt, image, row in zip(prompts, images, written, strict=True):
            alone = processor(text=[prompt], images=[image], return_tensors="pt")
            assert model.generate(**alone, **settings)[0, -4:].tolist() == row.tolist()


def test_it_fits_in_the_repository(task):
    with torch.device("meta"):
        full = MergedTask(replace(RECIPES["testbed-q"], tokenizer_examples=100), torch.device("meta")).model
    missing = (1024 - full.config.text_config.vocab_size) * full.config.text_config.hidden_size
    assert 2 * (full.num_parameters() + missing) < 6_000_000 - 150_000, "room for the rest"
    assert max(SIDES) ** 2 <= task.processor.image_processor.size["longest_edge"]
