"""A block serves one thread at a time: others get the right answer later, or a clear error now."""

import re
import threading
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate import FastV
from dyrate.errors import DyrateError
from tests.tiny import tiny_inputs, tiny_llava


@pytest.fixture
def model() -> Any:
    return tiny_llava()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return tiny_inputs([7, 3])


def refused(message: str) -> Any:
    return pytest.raises(DyrateError, match=re.escape(message))


def generated(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    return model.generate(**inputs, **{"max_new_tokens": 4, "do_sample": False, **options})


class Streamer:
    """Holds its generation up after the prompt, until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def put(self, value: Tensor) -> None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(timeout=60)

    def end(self) -> None: ...


def test_a_second_thread_is_refused_and_the_first_goes_on(model: Any) -> None:
    inputs, answers, streamer = tiny_inputs([7]), [], Streamer()
    with FastV()(model):
        expected = generated(model, inputs)
        first = threading.Thread(
            target=lambda: answers.append(generated(model, inputs, streamer=streamer)), name="first"
        )
        first.start()
        assert streamer.begun.wait(timeout=60)
        for _ in range(2):
            with refused("thread 'first' is generating in this with block"):
                generated(model, inputs)
            with refused("thread 'first' is generating in this with block"):
                model(**inputs)
        streamer.go_on.set()
        first.join()
        assert torch.equal(answers[0], expected)
        assert torch.equal(generated(model, inputs), expected)  # Nobody is busy any more.


def test_leaving_while_another_thread_generates_is_an_error(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyrate.one_thread._PATIENCE", 0.1)
    inputs, errors, streamer = tiny_inputs([7]), [], Streamer()

    def generate() -> None:
        try:
            generated(model, inputs, streamer=streamer)
        except DyrateError as error:
            errors.append(str(error))

    first = threading.Thread(target=generate, name="first")
    with refused("left while thread 'first' was generating"), FastV()(model):
        first.start()
        assert streamer.begun.wait(timeout=60)
    assert model.config.text_config._attn_implementation == "sdpa"
    streamer.go_on.set()
    first.join()


def test_a_failed_forward_leaves_nobody_busy(model: Any, inputs: dict[str, Tensor]) -> None:
    answers: list[Tensor] = []
    with FastV()(model):
        expected = generated(model, inputs)
        with pytest.raises(DyrateError):
            model(**inputs, labels=inputs["input_ids"])
        with pytest.raises(DyrateError):
            generated(model, inputs, prefill_chunk_size=4)
        other = threading.Thread(target=lambda: answers.append(generated(model, inputs)))
        other.start()
        other.join()
    assert torch.equal(answers[0], expected)


@pytest.mark.parametrize("work", ["generate", "forward", "loop"])
def test_many_threads_get_the_right_answer_or_a_clear_error(
    work: str, model: Any, inputs: dict[str, Tensor]
) -> None:
    def answer(prompt: dict[str, Tensor]) -> Tensor:
        if work == "generate":
            return generated(model, prompt)
        with torch.no_grad():
            output = model(**prompt)
            chosen = [output.logits[:, -1:].argmax(-1)]
            for _ in range(3 if work == "loop" else 0):
                output = model(input_ids=chosen[-1], past_key_values=output.past_key_values)
                chosen.append(output.logits[:, -1:].argmax(-1))
        return torch.cat(chosen, dim=1)

    prompts = [tiny_inputs([7, 3], seed=seed) for seed in range(4)]
    wrong: list[str] = []
    under_way: list[int] = []

    def run(index: int) -> None:
        under_way.append(index)
        with suppress(DyrateError):
            if not torch.equal(answer(prompts[index]), expected[index]):
                wrong.append("another answer")
        under_way.remove(index)  # An obscure error leaves it there.

    with FastV()(model):
        expected = [answer(prompt) for prompt in prompts]
        for _ in range(3):
            threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (wrong, under_way) == ([], [])
        assert torch.equal(answer(prompts[0]), expected[0])
