"""From a task's text and images to the prompt that the model reads, as lmms-eval's `llava_hf` makes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from dyrate.errors import DyrateError

IMAGE = "<image>"
# What llava_hf falls back on for tokenizers without a chat template (lmms_eval.models.simple.llava_hf).
VICUNA = (
    "{% for message in messages %}{% if loop.index0 == 0 %}A chat between a curious user and an artificial "
    "intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's "
    "questions. USER: {{ message['content'] }} {% elif message['role'] == 'user' %}"
    "USER: {{ message['content'] }} {% else %} ASSISTANT: {{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_PROBE = "What is this?"


@dataclass(frozen=True)
class PromptStyle:
    """How one checkpoint wants its prompts."""

    tokenizer: Any
    template: str
    structured: bool  # the template reads lists of parts, and would drop a plain string

    @classmethod
    def of(cls, processor: Any, model_type: str, template: str | None = None) -> "PromptStyle":
        """Choose the given template, the tokenizer's, for LLaVA Vicuna's, or the processor's, in this order.

        A template that loses a plain string gets its message in parts. Raises `DyrateError` without any, and
        for one that is no Jinja, or that loses the question or the image in parts, too.
        """
        tokenizer = processor.tokenizer
        chosen = template or tokenizer.chat_template
        if chosen is None:
            chosen = VICUNA if model_type.startswith("llava") else processor.chat_template
        if chosen is None:
            raise DyrateError(f"the checkpoint ({model_type}) has no chat template; pass chat_template=...")
        plain = cls(tokenizer, chosen, structured=False)
        try:
            style = plain if _PROBE in plain.render(_PROBE, 0) else cls(tokenizer, chosen, structured=True)
            prompt = style.render(_PROBE, 1)
        except TemplateError as error:
            raise DyrateError(f"the checkpoint's chat template: {type(error).__name__}: {error}") from error
        if lost := [
            part for part in (_PROBE, getattr(processor, "image_token", IMAGE)) if part not in prompt
        ]:
            raise DyrateError(
                f"the checkpoint's chat template makes a prompt without {lost[0]!r}: {prompt!r}"
            )
        return style

    def render(self, text: str, images: int) -> str:
        """The prompt for a user's text and some images; text that places its images keeps them there."""
        content: str | Sequence[dict[str, str]]
        if self.structured:
            parts = [] if IMAGE in text else [{"type": "image"}] * images
            content = [*parts, {"type": "text", "text": text}]
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
