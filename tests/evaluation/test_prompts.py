"""Prompts: one image mark per image, in whatever way the checkpoint's template wants it."""

from pathlib import Path

import pytest

from dyrate.errors import DyrateError
from dyrate.evaluation.checkpoint import load_processor
from dyrate.evaluation.prompts import PromptStyle
from tests.evaluation.stand_ins import PARTS_TEMPLATE, make_checkpoint

PROMPT = "USER: <image>\nWhat is it? ASSISTANT:"


def test_a_plain_and_a_structured_template_give_the_same_prompt(checkpoint: Path) -> None:
    processor = load_processor(checkpoint)
    plain = PromptStyle.of(processor, "llava")
    parts = PromptStyle.of(processor, "llava", PARTS_TEMPLATE)
    assert (plain.structured, parts.structured) == (False, True)
    assert plain.render("What is it?", 1) == parts.render("What is it?", 1) == PROMPT


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("What?", 0, "USER: What? ASSISTANT:"),
        ("What?", 2, "USER: <image> <image>\nWhat? ASSISTANT:"),
        ("Before <image> after", 1, "USER: Before <image> after ASSISTANT:"),
    ],
)
def test_images_are_placed_once(checkpoint: Path, text: str, images: int, expected: str) -> None:
    assert PromptStyle.of(load_processor(checkpoint), "llava").render(text, images) == expected


def test_llava_without_a_template_gets_vicunas_as_in_llava_hf(checkpoint: Path) -> None:
    processor = load_processor(checkpoint)
    processor.tokenizer.chat_template = None
    prompt = PromptStyle.of(processor, "llava").render("What?", 1)
    assert prompt.startswith("A chat between a curious user")
    assert prompt.endswith("USER: <image>\nWhat? ASSISTANT:")


def test_another_family_without_a_template_is_refused(checkpoint: Path) -> None:
    processor = load_processor(checkpoint)
    processor.tokenizer.chat_template = processor.chat_template = None
    with pytest.raises(DyrateError, match=r"\(idefics3\) has no chat template"):
        PromptStyle.of(processor, "idefics3")


def test_a_structured_checkpoint_loads(tmp_path: Path) -> None:
    processor = load_processor(make_checkpoint(tmp_path, PARTS_TEMPLATE))
    assert PromptStyle.of(processor, "llava").render("What is it?", 1) == PROMPT


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content']", "TemplateSyntaxError"),
        ("{{ raise_exception('one turn only') }}", "TemplateError: one turn only"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("hello", "makes a prompt without 'What is this\\?': 'hello'"),
        (
            "{% for p in messages[0]['content'] %}{{ p['text'] }}{% endfor %}",
            "makes a prompt without '<image>'",
        ),
    ],
)
def test_a_template_that_fails_or_loses_its_message_is_refused(
    checkpoint: Path, template: str, message: str
) -> None:
    with pytest.raises(DyrateError, match=f"the checkpoint's chat template.*{message}"):
        PromptStyle.of(load_processor(checkpoint), "llava", template)
