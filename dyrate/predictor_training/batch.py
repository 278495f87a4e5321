"""Prompts and their answers as one batch for teacher forcing, and how much each answer token counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from dyrate.errors import DyrateError
from dyrate.evaluation.prompts import PromptStyle
from dyrate.token_set import TokenSet
from dyrate.tokens import TokenLayout

NO_TARGET = -100  # torch's own mark for "no loss here"


@dataclass(frozen=True, eq=False)
class Batch:
    """Left-padded prompts of P columns, each followed by its answer; T is the longest answer's length.

    Step t is the query that predicts answer token t: the last prompt token at t = 0, answer token t - 1
    afterwards. So the steps stand in the last T columns, the same in every row.
    """

    input_ids: Tensor
    """LongTensor [batch, P + T - 1]: the prompt, then the answer without its last token."""
    prompt: TokenSet
    """Where the prompt's tokens of each class stand in the first P columns."""
    pixel_values: Tensor
    targets: Tensor
    """LongTensor [batch, T]: the answer with its end token; NO_TARGET beyond it."""
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the processor made for images, by name; by column it says 0 of answers."""

    @classmethod
    def of(
        cls, prompts: Mapping[str, Tensor], answers: Sequence[Sequence[int]], image_token_id: int
    ) -> "Batch":
        """Join the processor's output for left-padded prompts, and the token ids of their answers.

        Raises `DyrateError` for an empty answer and for prompts padded on the right.
        """
        if not all(answers):
            raise DyrateError("an answer to train on has no tokens")
        ids = prompts["input_ids"]
        targets = torch.full((len(answers), max(map(len, answers))), NO_TARGET)
        for row, answer in enumerate(answers):
            targets[row, : len(answer)] = torch.tensor(answer)
        targets = targets.to(ids.device)
        layout = TokenLayout.from_prompt(ids, prompts.get("attention_mask"), image_token_id)
        # Padding may hold any token: nobody looks at it.
        given = torch.cat([ids, targets[:, :-1].clamp_min(0)], dim=1)
        read = ("input_ids", "attention_mask", "pixel_values")
        beside = {name: value for name, value in prompts.items() if name not in read}
        for name, value in beside.items():
            if value.shape == ids.shape:
                beside[name] = pad(value, (0, given.shape[1] - ids.shape[1]))
        return cls(given, TokenSet.whole(layout), prompts["pixel_values"], targets, beside)

    @property
    def steps(self) -> int:
        """T: the number of steps of the longest answer."""
        return self.targets.shape[1]

    @cached_property
    def asked(self) -> Tensor:
        """BoolTensor [batch, T]: which steps a row has."""
        return self.targets != NO_TARGET

    @cached_property
    def valid(self) -> Tensor:
        """BoolTensor [batch, P + T - 1]: which columns hold a token."""
        return torch.cat([self.prompt.valid, self.asked[:, 1:]], dim=1)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a forward over prompts and answers gets, but for positions and the attention mask."""
        return {"input_ids": self.input_ids, "pixel_values": self.pixel_values, **self.beside}

    @cached_property
    def attended(self) -> Tensor:
        """BoolTensor [batch, 1, S, S]: who may attend to whom: causal, and no padding.

        Every column sees itself, so that no row of the softmax is empty.
        """
        width = self.input_ids.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=self.valid.device).tril()
        itself = torch.eye(width, dtype=torch.bool, device=self.valid.device)
        return (causal & self.valid[:, None, None, :]) | itself

    @cached_property
    def class_one_hot(self) -> Tensor:
        """FloatTensor [batch, P + T - 1, 4]: sys, img, ins, res; all zero at the prompt's padding."""
        prompt = pad(self.prompt.class_one_hot, (0, 1))
        response = prompt.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(prompt), self.steps - 1, -1)
        return torch.cat([prompt, response], dim=1)

    @cached_property
    def weights(self) -> Tensor:
        """FloatTensor [batch, T]: what each step counts; an answer of n tokens counts sqrt(n) in all.

        With equal tokens, captions would drown one-word answers; with equal answers, a caption's every word
        would hardly count. The testbed's models are trained with the same weights.
        """
        lengths = self.asked.sum(dim=1, keepdim=True)
        return self.asked * lengths.float().rsqrt()


class Encoder:
    """Makes batches of (PIL image, question, answer), with prompts and tokens as they are at inference."""

    def __init__(
        self, processor: Any, model: Any, longest_answer: int, chat_template: str | None = None
    ) -> None:
        self.processor = processor
        self.model = model
        self.longest_answer = longest_answer
        self.style = PromptStyle.of(processor, model.config.model_type, chat_template)
        end = model.generation_config.eos_token_id
        end = processor.tokenizer.eos_token_id if end is None else end
        self.end: int = end[0] if isinstance(end, list) else end

    def __call__(self, examples: Sequence[tuple[Any, str, str]]) -> Batch:
        """Encode examples onto the model's device; answers are cut at `longest_answer` tokens."""
        prompts = [self.style.render(question, 1) for _, question, _ in examples]
        inputs = self.processor(
            text=prompts, images=[image for image, _, _ in examples], padding=True, return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        answers = [
            self.answer_tokens(prompt, answer)[: self.longest_answer]
            for prompt, (_, _, answer) in zip(prompts, examples, strict=True)
        ]
        return Batch.of(inputs, answers, self.model.config.image_token_id)

    def answer_tokens(self, prompt: str, answer: str) -> list[int]:
        """Return the tokens that `generate()` would have to make after `prompt` to write `answer` and end.

        Tokenised together with the prompt, since some tokenizers write a text's first word in another way.
        Raises `DyrateError` where the tokens do not part between the two.
        """
        tokenizer = self.processor.tokenizer
        before: list[int] = tokenizer(prompt)["input_ids"]
        space = "" if prompt[-1:].isspace() else " "
        whole: list[int] = tokenizer(f"{prompt}{space}{answer.strip()}")["input_ids"]
        if before[-1:] == [self.end]:
            raise DyrateError(f"the tokenizer ends the prompt with {self.end}: nothing can follow it")
        if whole[: len(before)] != before:
            raise DyrateError(
                f"the tokens of {answer!r:.40} do not start where the prompt ends ({prompt[-20:]!r}); "
                "a chat template whose prompt ends in a whole word is needed"
            )
        return [*whole[len(before) :], self.end]
