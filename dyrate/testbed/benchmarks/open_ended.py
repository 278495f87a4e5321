"""Benchmarks with a word or a phrase as answer: GQA, VizWiz, VQAv2, TextVQA."""

from dataclasses import replace

from dyrate.testbed.benchmarks.annotators import annotate
from dyrate.testbed.benchmarks.item import BenchmarkSpec, Item, asked, photo_of
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds import UNANSWERABLE, Question, blind_question
from dyrate.testbed.world.sampling import sample_scene
from dyrate.testbed.world.scenes import SIDE


def gqa(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one question about one image."""
    scene, question = asked(spec, draw)
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
        "image": photo_of(scene),
    }
    return [Item(row, question.answer, question.kind)]


def vizwiz(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one question with ten annotators' answers; some photos show nothing."""
    if draw.chance(spec.difficulty.strong):
        scene = sample_scene(draw, "test", replace(spec.difficulty, strong=1.0))
        question = blind_question(draw)
    else:
        scene, question = asked(spec, draw, replace(spec.difficulty, strong=0.0))
    answers = annotate(question.answer, spec.crowd, draw)
    row = {
        "question_id": f"VizWiz_val_{index:08d}.jpg",
        "image": photo_of(scene),
        "question": question.text,
        "answers": answers,
        "category": _answer_type(question.answer),
    }
    return [Item(row, question.answer, question.kind)]


def vqav2(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one question with ten answers and their confidences."""
    scene, question = asked(spec, draw)
    answers = [
        {"answer": answer, "answer_confidence": draw.pick(("yes", "yes", "maybe")), "answer_id": i + 1}
        for i, answer in enumerate(annotate(question.answer, spec.crowd, draw))
    ]
    row = {
        "question_type": " ".join(question.text.lower().split()[:3]),
        "multiple_choice_answer": question.answer,
        "answers": answers,
        "image_id": index,
        "answer_type": _answer_type(question.answer),
        "question_id": index * 1000,
        "question": question.text,
        "image": photo_of(scene),
    }
    return [Item(row, question.answer, question.kind)]


def textvqa(spec: BenchmarkSpec, draw: Draw, index: int) -> list[Item]:
    """Return one question about printed text with ten annotators' answers."""
    scene, question = asked(spec, draw)
    row = {
        "image_id": f"{index:016x}",
        "question_id": 34602 + index,
        "question": question.text,
        "question_tokens": question.text.lower().rstrip("?").split(),
        "image": photo_of(scene),
        "image_width": SIDE,
        "image_height": SIDE,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": annotate(question.answer, spec.crowd, draw),
        "image_classes": ["Sign"],
        "set_name": "val",
        "ocr_tokens": [sign.text.upper() for sign in scene.signs],
    }
    return [Item(row, question.answer, question.kind)]


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
