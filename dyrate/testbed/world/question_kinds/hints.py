"""Questions that cannot be answered from the image alone, or not at all."""

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds.attributes import absent
from dyrate.testbed.world.question_kinds.question import UNANSWERABLE, Question
from dyrate.testbed.world.referring_expressions import Description, Facts
from dyrate.testbed.world.vocabulary import COLOR_NAMES, SHAPES

_PEOPLE = ("Kim", "Bo", "Ana", "Max", "Lea", "Tom", "Zoe", "Ben")


def ask_hint(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask for the shape or colour of what a person likes; only the hint tells what two people like."""
    for attribute in draw.shuffled(("color", "shape", "texture")):
        asked = draw.pick([asked for asked in ("color", "shape") if asked != attribute])
        answers_of: dict[str, set[str]] = {}
        for thing in facts.scene.things:
            answers_of.setdefault(getattr(thing, attribute), set()).add(getattr(thing, asked))
        everything = set().union(*answers_of.values())
        for liked in draw.shuffled([value for value, answers in answers_of.items() if len(answers) == 1]):
            (answer,) = answers_of[liked]
            others = [value for value, answers in answers_of.items() if answer not in answers]
            if not others or len(everything) < 4:
                continue
            who, other = draw.sample(_PEOPLE, 2)
            hint = draw.shuffled((_likes(who, attribute, liked), _likes(other, attribute, draw.pick(others))))
            text = draw.pick(("Which {} would {} choose?", "What {} is the thing that {} likes?"))
            wrong = tuple(draw.shuffled(sorted(everything - {answer})))
            return Question("hint", text.format(asked, who), answer, wrong, " ".join(hint))
    return None


def _likes(person: str, attribute: str, value: str) -> str:
    return f"{person} likes {Description(**{attribute: value}).nouns}."


def ask_unanswerable(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask about a thing or a sign that is not there."""
    if not facts.scene.signs and draw.chance(0.4):
        text = draw.pick(
            ("What does the sign say?", "What is written on the sign?", "What number is on the sign?")
        )
    else:
        form, key = draw.pick(
            (
                ("What color is the {}?", Description(draw.pick(SHAPES))),
                ("What shape is the {}?", Description(color=draw.pick(COLOR_NAMES))),
                ("What pattern does the {} have?", absent(facts, draw, "adversarial")),
            )
        )
        if key is None or facts.count(key):
            return None
        text = form.format(key.noun)
    return Question("unanswerable", text, UNANSWERABLE, ())


def blind_question(draw: Draw) -> Question:
    """Return a question to which a photo that shows nothing has no answer."""
    text = draw.pick(
        (
            "What does the sign say?",
            "What number is on the sign?",
            f"What color is the {draw.pick(SHAPES)}?",
            f"What shape is the {draw.pick(COLOR_NAMES)} thing?",
            f"How many {Description(draw.pick(SHAPES)).nouns} are there?",
        )
    )
    return Question("unanswerable", text, UNANSWERABLE, ())
