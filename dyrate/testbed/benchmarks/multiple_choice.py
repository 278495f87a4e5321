"""Benchmarks with lettered choices: ScienceQA and MMBench."""

from dyrate.testbed.benchmarks.item import BenchmarkSpec, Item, asked, photo_of
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.examples import options
from dyrate.testbed.world.prompts import LETTERS


def sqa(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one question with two to four choices, often with a hint that is needed."""
    scene, question = asked(spec, draw)
    choices, right = options(question, draw, draw.pick((2, 3, 3, 4)))
    row = {
        "image": photo_of(scene),
        "question": question.text,
        "choices": choices,
        "answer": right,
        "hint": question.hint,
        "task": "closed choice",
        "grade": f"grade{2 + len(choices)}",
        "subject": "natural science",
        "topic": "scenes",
        "category": "Synthetic scenes",
        "skill": question.kind,
        "lecture": "",
        "solution": f"The answer is {question.answer}.",
    }
    return [Item(row, LETTERS[right], question.kind)]


_MMB_CATEGORIES = {
    "color": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "shape": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "texture": ("attribute_recognition", "finegrained_perception (instance-level)"),
    "word": ("ocr", "finegrained_perception (instance-level)"),
    "number": ("ocr", "finegrained_perception (instance-level)"),
    "count": ("object_localization", "finegrained_perception (instance-level)"),
    "quadrant": ("object_localization", "finegrained_perception (instance-level)"),
    "neighbor": ("spatial_relationship", "finegrained_perception (cross-instance)"),
    "scene": ("image_scene", "coarse_perception"),
    "hint": ("identity_reasoning", "attribute_reasoning"),
}


ROTATIONS = 4


_ROTATION_STEP = 1_000_000
"""lmms-eval groups the rotations of one question by `index` modulo this number."""


def mmb(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return the four rotations of one question with four options, for MMBench's circular evaluation."""
    scene, question = asked(spec, draw)
    choices, right = options(question, draw, ROTATIONS)
    category, broad = _MMB_CATEGORIES[question.kind]
    image = photo_of(scene)
    group = []
    for turn in range(ROTATIONS):
        rotated = choices[turn:] + choices[:turn]
        letter = LETTERS[(right - turn) % ROTATIONS]
        row = {
            "index": index + turn * _ROTATION_STEP,
            "question": question.text,
            "hint": question.hint or "nan",
            "answer": letter,
            **dict(zip(LETTERS, rotated, strict=True)),
            "category": category,
            "image": image,
            "source": "testbed",
            "L2-category": broad,
            "comment": "nan",
            "split": "dev",
        }
        group.append(Item(row, letter, question.kind))
    return group
