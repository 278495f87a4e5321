"""Prompts: one image mark per image, in whatever way the checkpoint's template wants it."""

import hashlib
from pathlib import Path

import pytest

from dyrate.errors import DyrateError
from dyrate.evaluation.processor import load_processor
from dyrate.evaluation.prompts import VICUNA, PromptStyle, read_template
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


@pytest.mark.parametrize("model_type", ["llava", "idefics3"])
def test_a_checkpoint_without_a_template_gets_none_unasked(checkpoint: Path, model_type: str) -> None:
    processor = load_processor(checkpoint)
    processor.tokenizer.chat_template = processor.chat_template = None
    with pytest.raises(
        DyrateError, match=rf"\({model_type}\) has no chat template.*--chat-template .*vicuna"
    ):
        PromptStyle.of(processor, model_type)


def test_vicunas_as_in_llava_hf_is_to_be_asked_for(checkpoint: Path) -> None:
    processor = load_processor(checkpoint)
    processor.tokenizer.chat_template = processor.chat_template = None
    style = PromptStyle.of(processor, "llava", read_template("vicuna"))
    prompt = style.render("What?", 1)
    assert prompt.startswith("A chat between a curious user")
    assert prompt.endswith("USER: <image>\nWhat? ASSISTANT:")
    assert style.hash == hashlib.sha256(VICUNA.encode()).hexdigest()


def test_the_processors_template_is_the_checkpoints_too(checkpoint: Path) -> None:
    processor = load_processor(checkpoint)
    processor.tokenizer.chat_template = None
    assert PromptStyle.of(processor, "llava").render("What is it?", 1) == PROMPT


def test_a_template_comes_from_a_file(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(PARTS_TEMPLATE)
    style = PromptStyle.of(load_processor(checkpoint), "llava", read_template(str(tmp_path / "own.jinja")))
    assert style.render("What is it?", 1) == PROMPT
    with pytest.raises(
        DyrateError, match=r"--chat-template vicunia: .*no such file; a .jinja file is wanted"
    ):
        read_template("vicunia")


def test_a_structured_checkpoint_loads(tmp_path: Path) -> None:
    processor = load_processor(make_checkpoint(tmp_path, PARTS_TEMPLATE))
    assert PromptStyle.of(processor, "llava").render("What is it?", 1) == PROMPT


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content']", "TemplateSyntaxError"),
        ("{{ raise_exception('one turn only') }}", "TemplateError: one turn only"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("USER: {{ 'Q: ' + 'not ' * 2 }}", "makes a prompt without 'What is this\\?'"),
        ("{{ 'USER: ' + messages[0]['content'] | replace('<image>', '') }}", "a prompt without '<image>'"),
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
