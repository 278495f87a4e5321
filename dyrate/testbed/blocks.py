"""How a block of each benchmark is made: rows in the real data set's columns, with the perfect answers.

What is asked how often, and of which scenes, is the plan's; the files are `benchmarks`' business.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from PIL import Image

from dyrate.testbed.annotators import UNANIMOUS, Crowd, annotate
from dyrate.testbed.captions import references
from dyrate.testbed.draw import Draw
from dyrate.testbed.facts import Description, Facts
from dyrate.testbed.prompts import CAPTION, LETTERS
from dyrate.testbed.questions import ANSWERS, UNANSWERABLE, Question, absent, ask, blind_question
from dyrate.testbed.render import render
from dyrate.testbed.scenes import DEFAULT, SIDE, Difficulty, Domain, Scene, sample_scene
from dyrate.testbed.vocabulary import HELD_OUT
from dyrate.testbed.world import Kinds, options

Row = dict[str, Any]


class Item(NamedTuple):
    """One row of a benchmark, the perfect answer to it, its kind of question and its scene's domain."""

    row: Row
    answer: str
    kind: str
    domain: Domain = "in-domain"


Block = list[Item]


@dataclass(frozen=True)
class Plan:
    """What a benchmark asks: kinds of question with their weights, the scenes' difficulty, the annotators."""

    kinds: Kinds = field(default_factory=dict)
    difficulty: Difficulty = DEFAULT
    crowd: Crowd = UNANIMOUS


Maker = Callable[[Plan, Draw, int], Block]


def gqa(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one question about one image."""
    scene, question = _asked(plan, draw)
    number = f"{index:08d}"
    row = {
        "id": f"2{number}",
        "imageId": f"n{number}",
        "question": question.text,
        "answer": question.answer,
        "fullAnswer": question.answer,
        "isBalanced": True,
        "groups": {"global": question.kind, "local": f"{question.kind}-{number}"},
        "entailed": "",
        "equivalent": f"2{number}",
        "types": {"structural": _structure(question), "semantic": "attr", "detailed": question.kind},
        "annotations": {"question": [], "answer": [], "fullAnswer": []},
        "semantic": [{"operation": _structure(question), "argument": question.kind, "dependencies": []}],
        "semanticStr": f"{_structure(question)}: {question.kind}",
        "image": _photo(scene),
    }
    return [Item(row, question.answer, question.kind)]


def vizwiz(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one question with ten annotators' answers; some photos show nothing."""
    if draw.chance(plan.difficulty.strong):
        scene = _scene(draw, replace(plan.difficulty, strong=1.0))
        question = blind_question(draw)
    else:
        scene, question = _asked(plan, draw, replace(plan.difficulty, strong=0.0))
    answers = annotate(question.answer, plan.crowd, draw)
    row = {
        "question_id": f"VizWiz_val_{index:08d}.jpg",
        "image": _photo(scene),
        "question": question.text,
        "answers": answers,
        "category": _answer_type(question.answer),
    }
    return [Item(row, question.answer, question.kind)]


def sqa(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one question with two to four choices, often with a hint that is needed."""
    scene, question = _asked(plan, draw)
    choices, right = options(question, draw, draw.pick((2, 3, 3, 4)))
    row = {
        "image": _photo(scene),
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


def vqav2(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one question with ten answers and their confidences."""
    scene, question = _asked(plan, draw)
    answers = [
        {"answer": answer, "answer_confidence": draw.pick(("yes", "yes", "maybe")), "answer_id": i + 1}
        for i, answer in enumerate(annotate(question.answer, plan.crowd, draw))
    ]
    row = {
        "question_type": " ".join(question.text.lower().split()[:3]),
        "multiple_choice_answer": question.answer,
        "answers": answers,
        "image_id": index,
        "answer_type": _answer_type(question.answer),
        "question_id": index * 1000,
        "question": question.text,
        "image": _photo(scene),
    }
    return [Item(row, question.answer, question.kind)]


def textvqa(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one question about printed text with ten annotators' answers."""
    scene, question = _asked(plan, draw)
    row = {
        "image_id": f"{index:016x}",
        "question_id": 34602 + index,
        "question": question.text,
        "question_tokens": question.text.lower().rstrip("?").split(),
        "image": _photo(scene),
        "image_width": SIDE,
        "image_height": SIDE,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": annotate(question.answer, plan.crowd, draw),
        "image_classes": ["Sign"],
        "set_name": "val",
        "ocr_tokens": [sign.text.upper() for sign in scene.signs],
    }
    return [Item(row, question.answer, question.kind)]


def pope(plan: Plan, draw: Draw, index: int) -> Block:
    """Return six questions about one image: a yes and a no for each way of choosing negatives."""
    categories = ("random", "popular", "adversarial")
    while True:
        scene = _scene(draw, plan.difficulty)
        facts = Facts(scene)
        present = sorted({(thing.shape, thing.color) for thing in scene.things})
        missing = [absent(facts, draw, category) for category in categories]
        if len(present) >= len(categories) and len(set(missing)) == len(categories) and None not in missing:
            break
    image = _photo(scene)
    block: Block = []
    for category, pair, other in zip(categories, draw.sample(present, 3), missing, strict=True):
        assert other
        for description, answer in ((Description(*pair), "yes"), (other, "no")):
            number = index * 6 + len(block)
            row = {
                "id": str(number),
                "question_id": str(number + 1),
                "question": f"Is there {description.a_noun} in the image?",
                "answer": answer,
                "image_source": f"TESTBED_val_{index:012d}",
                "image": image,
                "category": category,
            }
            block.append(Item(row, answer, category))
    return block


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


def mmb(plan: Plan, draw: Draw, index: int) -> Block:
    """Return the four rotations of one question with four options, for MMBench's circular evaluation."""
    scene, question = _asked(plan, draw)
    choices, right = options(question, draw, ROTATIONS)
    category, broad = _MMB_CATEGORIES[question.kind]
    image = _photo(scene)
    block = []
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
        block.append(Item(row, letter, question.kind))
    return block


MME_CATEGORIES = {
    "existence": "existence",
    "count": "quantity",
    "position": "relation",
    "color": "verify_color",
    "scene": "setting",
    "OCR": "reading",
    "commonsense_reasoning": "commonsense",
    "numerical_calculation": "arithmetic",
}
"""MME's category to the kind of question; the last two are cognition, the others perception."""


def mme(plan: Plan, draw: Draw, index: int) -> Block:
    """Return a pair about one image, one answered yes and one no; the categories take turns."""
    category = tuple(MME_CATEGORIES)[index % len(MME_CATEGORIES)]
    kind = MME_CATEGORIES[category]
    while True:
        scene = _scene(draw, plan.difficulty)
        facts = Facts(scene)
        pair = [ask(kind, facts, draw, answer) for answer in ("yes", "no")]
        if all(pair):
            break
    image = _photo(scene)
    block = []
    for question in draw.shuffled([question for question in pair if question]):
        row = {
            "question_id": f"{category}/{index // len(MME_CATEGORIES):04d}.png",
            "image": image,
            "question": f"{question.text} Please answer yes or no.",
            "answer": question.answer.capitalize(),
            "category": category,
        }
        block.append(Item(row, question.answer, kind))
    return block


DOMAINS: tuple[Domain, ...] = ("in-domain", "near-domain", "out-domain")


def nocaps(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one image with five captions; the three domains take turns."""
    domain = DOMAINS[index % len(DOMAINS)]
    scene = sample_scene(draw, "test", plan.difficulty, domain)
    while domain == "near-domain" and not _is_mixed(scene):
        scene = sample_scene(draw, "test", plan.difficulty, domain)
    captions = references(scene, draw)
    row = {
        "image": _photo(scene),
        "image_coco_url": "",
        "image_date_captured": "",
        "image_file_name": f"{index:016x}.png",
        "image_height": SIDE,
        "image_width": SIDE,
        "image_id": index,
        "image_license": 0,
        "image_open_images_id": f"{index:016x}",
        "annotations_ids": list(range(index * len(captions), (index + 1) * len(captions))),
        "annotations_captions": captions,
    }
    return [Item(row, captions[0], "caption", domain)]


def flickr30k(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one image with five captions."""
    scene = _scene(draw, plan.difficulty)
    captions = references(scene, draw)
    number = len(captions) * index
    row = {
        "image": _photo(scene),
        "caption": captions,
        "sentids": [str(number + i) for i in range(len(captions))],
        "img_id": str(index),
        "filename": f"{index:010d}.jpg",
    }
    return [Item(row, captions[0], "caption")]


def coco2017(plan: Plan, draw: Draw, index: int) -> Block:
    """Return one image with five captions."""
    scene = _scene(draw, plan.difficulty)
    captions = references(scene, draw)
    number = index + 1
    row = {
        "question_id": f"COCO_val2017_{number:012d}.jpg",
        "image": _photo(scene),
        "question": CAPTION,
        "answer": captions,
        "id": number,
        "license": 0,
        "file_name": f"{number:012d}.jpg",
        "coco_url": "",
        "height": SIDE,
        "width": SIDE,
        "date_captured": "",
    }
    return [Item(row, captions[0], "caption")]


MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (gqa, vizwiz, sqa, vqav2, textvqa, pope, mmb, mme, nocaps, flickr30k, coco2017)
}
"""Benchmark to the function that makes its blocks."""


def _scene(draw: Draw, difficulty: Difficulty) -> Scene:
    return sample_scene(draw, "test", difficulty)


def _asked(plan: Plan, draw: Draw, difficulty: Difficulty | None = None) -> tuple[Scene, Question]:
    """Return a scene and a question of one of the plan's kinds, all answers of a kind equally likely."""
    kind = draw.weighted(plan.kinds)
    answer = draw.pick(ANSWERS[kind]) if kind in ANSWERS else None
    while True:
        scene = _scene(draw, difficulty or plan.difficulty)
        question = ask(kind, Facts(scene), draw, answer)
        if question:
            return scene, question


def _is_mixed(scene: Scene) -> bool:
    held_out = [(thing.color, thing.shape) in HELD_OUT for thing in scene.things]
    return any(held_out) and not all(held_out)


def _photo(scene: Scene) -> Row:
    buffer = io.BytesIO()
    Image.fromarray(render(scene)).save(buffer, format="PNG", compress_level=4)
    return {"bytes": buffer.getvalue(), "path": None}


def _structure(question: Question) -> str:
    if question.answer in ("yes", "no"):
        return "verify"
    return "choose" if " or " in question.text else "query"


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    if answer.isdigit():
        return "number"
    return answer if answer == UNANSWERABLE else "other"
