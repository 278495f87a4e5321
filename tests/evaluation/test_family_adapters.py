"""Checkpoints of other families, as files of the hub: processors without torchvision, prompts, answers."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.checkpoint import load_model
from dyrate.evaluation.evaluate import evaluate_loaded, load
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.processor import load_processor
from dyrate.evaluation.requests import Question, Request
from tests.evaluation.family_checkpoints import family_checkpoint
from tests.tiny_families import TINY

SIZES = ((24, 40), (40, 16), (32, 32))
TEXTS = ("What is it?", "Is there a red thing, or a blue one?", "")


@pytest.fixture(scope="module", params=TINY)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_checkpoint(request.param, tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> DyrateModel:
    return DyrateModel(str(folder), device="cpu", batch_size=3)


def request(text: str) -> Request:
    return Request(text, "{}", list, 7, "gqa", "test")


def test_a_batch_is_answered_as_the_stock_model_answers_each(model: DyrateModel, folder: Path) -> None:
    processor, stock = load_processor(folder), load_model(folder, torch.device("cpu"), "float32")
    images = [Image.effect_noise(size, 60).convert("RGB") for size in SIZES]
    questions: list[Question] = [
        model.question(request(text), [image]) for text, image in zip(TEXTS, images, strict=True)
    ]

    told, _ = model.answer(model.setting, questions, 6)

    for question, answer in zip(questions, told, strict=True):
        inputs = processor(text=[question.prompt], images=list(question.images), return_tensors="pt")
        made = stock.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answer == processor.tokenizer.decode(made, skip_special_tokens=True)


def test_text_that_reads_as_an_image_is_refused(model: DyrateModel) -> None:
    token = model.processor.image_token
    with pytest.raises(DyrateError, match=r"gqa, row 7: its text has \d places for images .* with 1 images"):
        model.question(request(f"{token} and {token}?"), [Image.new("RGB", (24, 24))])


def test_images_stand_where_the_text_has_lmms_evals_mark(model: DyrateModel) -> None:
    images = [Image.new("RGB", (24, 24), color) for color in ("red", "blue")]
    prompt = model.question(request("One <image> and two <image> differ?"), images).prompt
    assert prompt.index("One") < prompt.index(model.processor.image_token) < prompt.index("two")
    assert prompt.rindex(model.processor.image_token) > prompt.index("two")
    if model.processor.image_token != "<image>":  # a mark that is no image of theirs
        prompt = model.question(request("What does <image> mean?"), images).prompt
        assert prompt.rindex(model.processor.image_token) < prompt.index("What does <image> mean?")


def test_images_keep_within_the_pixels_that_are_asked_for(folder: Path) -> None:
    whole = (Image.effect_noise((96, 64), 60).convert("RGB"),)

    def tokens(pixels: tuple[int, int] | str | None) -> tuple[int, str]:
        model = DyrateModel(str(folder), device="cpu", pixels=pixels)
        question = model.question(request("What?"), whole)
        ids = model.read([question])["input_ids"]
        return int((ids == model.model.config.image_token_id).sum()), model.key(model.setting, question, 4)

    if folder.name not in ("qwen2_5_vl", "qwen3_vl"):
        with pytest.raises(DyrateError, match=r"--pixels 64 1024: is for checkpoints whose images keep"):
            tokens((64, 1024))
        return
    side = load_processor(folder).image_processor
    area = (side.patch_size * side.merge_size) ** 2  # of one token
    (free, key), (few, fewer), (many, more) = (
        tokens(None),
        tokens((area, 6 * area)),
        tokens(f"{40 * area} {60 * area}"),
    )
    assert few <= 6 < 40 <= many <= 60
    assert free > 6
    assert len({key, fewer, more}) == 3


@pytest.mark.parametrize("pixels", ["64", (9, 3), "1 2 3", "0 9", "many"])
def test_what_are_no_bounds_is_refused(folder: Path, pixels: str | tuple[int, ...]) -> None:
    with pytest.raises(DyrateError, match=r"^pixels is "):
        DyrateModel(str(folder), device="cpu", pixels=pixels)


@pytest.mark.slow
def test_a_study_evaluates_it(folder: Path, data: Path, tmp_path: Path) -> None:
    job = Evaluation.of(
        {
            "model": str(folder),
            "method": {"name": "fastv", "layer": 2, "rate": 0.5},
            "benchmarks": ("gqa",),
            "data": data,
            "batch_size": 4,
            "device": "cpu",
            "study": "test",
            "output": tmp_path / "out",
        }
    )
    evaluate_loaded(job, load(job), load_tasks(select(("gqa",)), "testbed", data, None))
    found = json.loads((tmp_path / "out/greedy.json").read_text())
    (task,) = found["benchmarks"].values()
    seen = task["visual_tokens"]
    assert seen["total"] / 2 <= seen["prefill"][-1] < seen["prefill"][0] == seen["total"]
    assert task["work"]["prefill"]["encoding"] > 0
