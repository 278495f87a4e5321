"""From a task's text and images to the prompt that the model reads, as lmms-eval's `llava_hf` makes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from dyrate.errors import DyrateError
from dyrate.files import digest, read_bytes

IMAGE = "<image>"
# What llava_hf falls back on for tokenizers without a chat template (lmms_eval.models.simple.llava_hf); here
# it has to be asked for.
VICUNA = (
    "{% for message in messages %}{% if loop.index0 == 0 %}A chat between a curious user and an artificial "
    "intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's "
    "questions. USER: {{ message['content'] }} {% elif message['role'] == 'user' %}"
    "USER: {{ message['content'] }} {% else %} ASSISTANT: {{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
NAMED = {"vicuna": VICUNA}
"""Templates that go by a name."""
_PROBE = "What is this?"


@dataclass(frozen=True)
class PromptStyle:
    """How one checkpoint wants its prompts."""

    tokenizer: Any
    template: str
    token: str
    """The processor's, which stands for an image."""
    structured: bool
    """Whether the template gets a message in parts: it would drop a plain string, or knows no image in it."""

    @classmethod
    def of(cls, processor: Any, model_type: str, template: str | None = None) -> "PromptStyle":
        """Choose the given template, the tokenizer's, or the processor's, in this order.

        A template that loses a plain string, or that knows another mark of an image than lmms-eval writes,
        gets its message in parts. Raises `DyrateError` without any, and for one that is no Jinja, or that
        loses the question or the image in parts, too.
        """
        tokenizer = processor.tokenizer
        chosen = template or tokenizer.chat_template or getattr(processor, "chat_template", None)
        if chosen is None:
            raise DyrateError(
                f"the checkpoint ({model_type}) has no chat template, and gets none unasked: it would answer "
                "other prompts than it knows. Say which one it was trained with: --chat-template (in a study "
                f"chat_template, beside the path) takes a .jinja file, or {', '.join(NAMED)}, which "
                "lmms-eval's llava_hf falls back on"
            )
        token = getattr(processor, "image_token", IMAGE)
        faults = []
        for structured in (False, True):
            style = cls(tokenizer, chosen, token, structured)
            try:
                prompt = style.render(_PROBE, 1)
            except (TemplateError, TypeError) as error:  # the latter of a list that is added to a text
                faults.append((isinstance(error, TypeError), f": {type(error).__name__}: {error}"))
                continue
            lost = [part for part in (_PROBE, token) if part not in prompt]
            if not lost:
                return style
            faults.append((False, f" makes a prompt without {lost[0]!r}: {prompt!r}"))
        # Of both ways the one that the template is made for: no parts, if it cannot add them to a text.
        _, fault = min(reversed(faults), key=lambda one: one[0])
        raise DyrateError(f"the checkpoint's chat template{fault}")

    @property
    def hash(self) -> str:
        """sha256 of the template."""
        return digest(self.template.encode())

    def render(self, text: str, images: int) -> str:
        """The prompt for a user's text and some images; text that places its images keeps them there."""
        content: str | Sequence[dict[str, str]]
        if self.structured:
            content = self._parts(text, images)
        else:
            placed = IMAGE in text or not images
            content = text if placed else f"{' '.join([IMAGE] * images)}\n{text}"
        prompt: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=True,
        )
        return prompt

    def _parts(self, text: str, images: int) -> list[dict[str, str]]:
        """The parts of a message: images stand before its text, or where the text has lmms-eval's mark."""
        image, told = {"type": "image"}, {"type": "text", "text": text}
        if self.token == IMAGE:
            return [told] if IMAGE in text else [image] * images + [told]
        pieces = [{"type": "text", "text": piece} for piece in text.split(IMAGE)]
        if not images or len(pieces) != images + 1:
            return [image] * images + [told]
        placed = [part for piece in pieces for part in (piece, image)][:-1]
        return [part for part in placed if part.get("text") != ""]


def read_template(given: str | None) -> str | None:
    """The chat template that a name, the path of a file or its own text stands for; None for None.

    Raises `DyrateError` for what is none of them.
    """
    if given is None or given in NAMED or "{" in given:
        return NAMED.get(str(given), given)
    try:
        return read_bytes(Path(given)).decode()
    except (DyrateError, UnicodeDecodeError) as error:
        known = ", ".join(NAMED)
        raise DyrateError(
            f"--chat-template {given}: {error}; a .jinja file is wanted, or one of {known}"
        ) from None
