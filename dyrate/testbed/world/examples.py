"""The testbed as a stream of examples: an image with questions in all benchmarks' styles, and a caption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyrate.testbed.world import prompts
from dyrate.testbed.world.captions import caption
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds import Question, ask, blind_question
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.render import render
from dyrate.testbed.world.sampling import sample_scene
from dyrate.testbed.world.scenes import Scene, Split

Kinds = dict[str, float]
"""Weights of question kinds."""

SHORT_TURNS = 5
SHORT_KINDS: Kinds = {
    "existence": 1.6,
    "verify": 1.0,
    "choose": 0.6,
    "color": 1.0,
    "shape": 0.8,
    "texture": 0.7,
    "size": 0.5,
    "count": 1.2,
    "quantity": 0.6,
    "position": 0.7,
    "place": 0.5,
    "relation": 0.9,
    "neighbor": 1.2,
    "compare": 0.9,
    "scene": 0.4,
    "setting": 0.3,
    "commonsense": 0.5,
    "reading": 0.8,
    "arithmetic": 1.0,
}
"""Weights of the kinds asked in the style of GQA, VQAv2, POPE and MME."""

READING_KINDS: Kinds = {"word": 1.0, "number": 1.0}
"""Weights in the style of TextVQA."""

VIZWIZ_KINDS: Kinds = {
    "color": 1.0,
    "shape": 0.6,
    "texture": 0.4,
    "count": 0.4,
    "scene": 0.4,
    "word": 0.9,
    "number": 0.7,
    "unanswerable": 1.3,
}

OPTION_KINDS: Kinds = {
    "color": 1.0,
    "shape": 0.8,
    "texture": 0.6,
    "count": 0.9,
    "quadrant": 0.6,
    "neighbor": 0.7,
    "scene": 0.5,
    "word": 0.8,
    "number": 0.4,
    "hint": 0.8,
}
"""Weights of the kinds asked with lettered options, in the style of ScienceQA and MMBench."""

CAPTION_KIND = "caption"

HINT_SHARE = 0.6
"""Share of ScienceQA's questions that need their hint."""


@dataclass(frozen=True)
class DialogueTurn:
    """One exchange: the user's exact text in a benchmark's style, the answer, and the kind of question."""

    prompt: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Example:
    """One image, uint8 [168, 168, 3], and the turns about it."""

    image: NDArray[np.uint8]
    turns: tuple[DialogueTurn, ...]


def training_example(seed: int, index: int) -> Example:
    """Return an example of the training split; a pure function of its arguments."""
    return _example("train", seed, index)


def validation_example(seed: int, index: int) -> Example:
    """Return an example of the validation split, disjoint from training and from the benchmarks."""
    return _example("validation", seed, index)


def _example(split: Split, seed: int, index: int) -> Example:
    draw = Draw("world", split, seed, index)
    scene = sample_scene(draw, split)
    return Example(render(scene), tuple(turns_of(scene, draw)))


def turns_of(scene: Scene, draw: Draw) -> list[DialogueTurn]:
    """Return a scene's turns in a random order: questions in all styles and one caption."""
    if not scene.photo.readable:
        return [_turn(prompts.vizwiz_prompt, blind_question(draw)) for _ in range(3)]
    facts = Facts(scene)
    asked: set[str] = set()

    def question(kinds: Kinds) -> Question:
        return draw_question(facts, draw, kinds, asked)

    turns = [DialogueTurn(prompts.CAPTION, caption(scene, draw), CAPTION_KIND)]
    turns += [_turn(prompts.short_prompt, question(SHORT_KINDS)) for _ in range(SHORT_TURNS)]
    if scene.signs:
        turns.append(_turn(prompts.textvqa_prompt, question(READING_KINDS)))
    turns.append(_turn(prompts.vizwiz_prompt, question(VIZWIZ_KINDS)))
    turns.append(_choice_turn(prompts.mmbench_prompt, question(OPTION_KINDS), draw, 4))
    hint = ask("hint", facts, draw) if draw.chance(HINT_SHARE) else None
    about = hint or question(OPTION_KINDS)
    turns.append(_choice_turn(prompts.scienceqa_prompt, about, draw, draw.pick((2, 3, 3, 4))))
    return draw.shuffled(turns)


def draw_question(facts: Facts, draw: Draw, kinds: Kinds, asked: set[str]) -> Question:
    """Return a question of a random kind that the scene allows and that is not yet among `asked`."""
    while True:
        question = ask(draw.weighted(kinds), facts, draw)
        if question and question.text not in asked:
            asked.add(question.text)
            return question


def options(question: Question, draw: Draw, n: int) -> tuple[list[str], int]:
    """Return up to n options in a random order, and the place of the right one."""
    chosen = draw.shuffled([question.answer, *question.wrong[: n - 1]])
    return chosen, chosen.index(question.answer)


def _turn(prompt_of: Callable[[str], str], question: Question) -> DialogueTurn:
    return DialogueTurn(prompt_of(question.text), question.answer, question.kind)


def _choice_turn(
    prompt_of: Callable[[str, Sequence[str], str], str], question: Question, draw: Draw, n: int
) -> DialogueTurn:
    choices, right = options(question, draw, n)
    prompt = prompt_of(question.text, choices, question.hint)
    return DialogueTurn(prompt, prompts.LETTERS[right], "hint" if question.hint else "choice")
