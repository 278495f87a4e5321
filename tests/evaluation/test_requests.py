"""What tasks ask of generation, and rows that cannot be asked."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.requests import Request, new_tokens

WRITTEN_OUT = {"temperature": 0, "do_sample": False, "num_beams": 1, "top_p": 1.0, "until": ["x"]}
NOISE = Image.effect_noise((28, 28), 90)


def _limit(arguments: dict[str, Any], decoding: Any = "greedy", task: str = "t") -> int:
    return new_tokens(Request.of(("?", arguments, None, 0, task, "test")), decoding_spec(decoding))


@pytest.mark.parametrize("decoding", ["greedy", "beam-5", "top_p"])
def test_a_task_may_write_out_that_it_leaves_the_choice(decoding: str) -> None:
    assert _limit({**WRITTEN_OUT, "max_new_tokens": 7}, decoding) == 7


@pytest.mark.parametrize(
    ("arguments", "decoding"),
    [
        ({"num_beams": 5}, "beam-5"),
        ({"do_sample": True, "top_p": 0.9, "temperature": 1.0}, "top_p"),
        ({"temperature": 0.5}, {"name": "top_p", "temperature": 0.5}),
        ({"top_k": 1, "repetition_penalty": 1.0}, "greedy"),
    ],
)
def test_arguments_that_agree_are_accepted(arguments: dict, decoding: Any) -> None:
    assert _limit(arguments, decoding) == 1024


@pytest.mark.parametrize(
    ("arguments", "decoding", "message"),
    [
        ({"num_beams": 5}, "greedy", "ask for num_beams=5, but the decoding strategy, greedy, says how"),
        ({"num_beams": 2}, "beam-5", "ask for num_beams=2"),
        ({"num_beams": 2}, "top_p", "ask for num_beams=2"),
        ({"do_sample": True}, "greedy", "ask for do_sample=True"),
        ({"do_sample": True}, "beam-5", "ask for do_sample=True"),
        ({"temperature": 0.7}, "greedy", "ask for temperature=0.7"),
        ({"temperature": 0.7}, "top_p", "ask for temperature=0.7"),
        ({"top_p": 0.5}, "top_p", "ask for top_p=0.5"),
        ({"top_k": 5}, "top_p", "ask for top_k=5"),
        ({"repetition_penalty": 1.2}, "greedy", "ask for repetition_penalty=1.2"),
        (
            {"max_tokens": 4},
            "greedy",
            "hold max_tokens=4, which the dyrate model does not know; known: max_new",
        ),
        *(
            ({"max_new_tokens": value}, "greedy", "max_new_tokens=.*; it should be a whole number from 1 on")
            for value in (0, -1, "16", None, 16.0, True, [16])
        ),
    ],
)
def test_arguments_that_contradict_are_refused(arguments: dict, decoding: str, message: str) -> None:
    with pytest.raises(DyrateError, match=f"task t: generation_kwargs .*{message}"):
        _limit({**WRITTEN_OUT, **arguments}, decoding)


@pytest.mark.parametrize("task", ["textvqa_val", "vizwiz_vqa_val"])
def test_tasks_without_a_limit_have_the_benchmarks_under_lmms_evals_command_too(task: str) -> None:
    assert _limit({"until": ["x"]}, task=task) == 16
    assert _limit({"max_new_tokens": 4}, task=task) == 4


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> DyrateModel:
    return DyrateModel(str(checkpoint), batch_size=2, device="cpu")


def _ask(model: DyrateModel, text: Any = "What?", image: Any = NOISE, limit: int = 4) -> list[str]:
    def visual(row: dict[str, Any]) -> list[Image.Image]:
        return [row["image"].convert("RGB")] if row["image"] else []

    model.task_dict["t"] = {"test": [{"image": NOISE}, {"image": image}]}
    asked = [("What?", 0), (text, 1)]
    arguments = [(each, {"max_new_tokens": limit}, visual, row, "t", "test") for each, row in asked]
    return model.generate_until([SimpleNamespace(args=each) for each in arguments])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"text": "<image> or <image>"},
            r"row 1: its text has 2 places for images \(<image>\) with 1 images",
        ),
        ({"text": "<image>", "image": None}, "row 1: its text has 1 places .* with 0 images"),
        ({"text": None}, "row 1: None is asked; it should be a text"),
        ({"text": 5}, "row 1: 5 is asked"),
        ({"text": "a\ud800b"}, "row 1: .* it should be a text that UTF-8 can hold"),
        (
            {"text": "a" * 5000},
            "rows 1, 0: row 1 has a prompt of 50.. tokens and 4 new ones, .* 2048 positions",
        ),
        ({"limit": 2048}, "rows 0, 1: row 0 .* tokens and 2048 new ones, but the model has 2048 positions"),
        ({"image": Image.new("RGB", (0, 5))}, r"row 1: the image has no pixels \(0 x 5\)"),
        (
            {"image": Image.new("I;16", (9, 9), 30000)},
            "row 1, column 'image': an image of mode I;16 has more",
        ),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(model: DyrateModel, asked: dict, message: str) -> None:
    with pytest.raises(DyrateError, match=f"task t, {message}"):
        _ask(model, **asked)


def test_a_row_of_any_colors_and_any_text_is_asked(model: DyrateModel) -> None:
    for mode in ("L", "LA", "P", "1", "RGBA", "CMYK", "YCbCr"):
        assert _ask(model, image=NOISE.convert(mode))[1] is not None
    for text in ("a <image> b", "a </s> b", "USER: a", "a\0b"):
        assert len(_ask(model, text)) == 2


def test_a_bomb_is_named(model: DyrateModel, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    NOISE.save(file, "PNG")

    class Row(dict):  # as `datasets` does, decoding when asked for
        def items(self) -> Any:
            return {"image": Image.open(io.BytesIO(file.getvalue()))}.items()

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    model.task_dict["t"] = {"test": [Row()]}
    arguments = ("?", {"max_new_tokens": 4}, lambda row: [row["image"]], 0, "t", "test")
    with pytest.raises(DyrateError, match=r"task t, row 0: the image cannot be decoded .*bomb"):
        model.generate_until([SimpleNamespace(args=arguments)])
