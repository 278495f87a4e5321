"""Questions that need reading."""

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds.question import YES_NO, Question, yes_no
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.scenes import Sign
from dyrate.testbed.world.vocabulary import WORDS

_SIGN_FORMS = {
    "word": (
        "What does {} say?",
        "What is written on {}?",
        "What word is on {}?",
        "Which word is printed on {}?",
    ),
    "number": ("What number is on {}?", "Which number is printed on {}?", "What is the number on {}?"),
}


def ask_sign(kind: str, facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask for the word or the number on a sign."""
    if (referred := facts.sign(draw, number=kind == "number")) is None:
        return None
    sign, reference = referred
    text = draw.pick(_SIGN_FORMS[kind]).format(reference)
    return Question(kind, text, sign.text, _wrong_texts(draw, sign))


def ask_reading(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether a sign says what is named."""
    number = bool(facts.numbers) and (not facts.words or draw.chance(0.3))
    if (referred := facts.sign(draw, number)) is None:
        return None
    sign, reference = referred
    answer = answer or draw.pick(YES_NO)
    named = sign.text
    if answer == "no":
        named = draw.pick(_wrong_texts(draw, sign))
    noun = "number" if sign.is_number else "word"
    text = draw.pick(('Is the {} on {} "{}"?', 'Is the {} printed on {} "{}"?'))
    return yes_no("reading", text.format(noun, reference, named), answer)


def ask_arithmetic(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether the number on a sign is greater or smaller than another."""
    if (referred := facts.sign(draw, number=True)) is None:
        return None
    sign, reference = referred
    number, answer = int(sign.text), answer or draw.pick(YES_NO)
    larger = draw.chance(0.5)
    # Bounds lie on both sides of the number alike, so that the bound alone tells nothing.
    distance = draw.between(1, max(1, number * 6 // 10))
    bound = number - distance if larger == (answer == "yes") else number + distance
    word = "greater" if larger else "smaller"
    return yes_no("arithmetic", f"Is the number on {reference} {word} than {bound}?", answer)


def _wrong_texts(draw: Draw, sign: Sign) -> tuple[str, ...]:
    """Return other numbers like the sign's, or four other words of about the same length."""
    if sign.is_number:
        return _wrong_numbers(draw, sign.text)
    length = min(len(sign.text), 5)
    return tuple(
        draw.sample([word for word in WORDS if word != sign.text and min(len(word), 5) == length], 4)
    )


def _wrong_numbers(draw: Draw, number: str) -> tuple[str, ...]:
    """Return three other numbers of as many digits: one digit changed, another, and both.

    Like the right one, each of the four differs from two others in one digit, so that none stands out.
    """
    if len(number) == 1:
        return tuple(draw.sample([digit for digit in "123456789" if digit != number], 3))
    first, second = sorted(draw.sample(range(len(number)), 2))
    one = _changed(draw, number, first)
    changed = _changed(draw, number, second)
    return tuple(draw.shuffled((one, changed, one[:second] + changed[second:])))


def _changed(draw: Draw, number: str, at: int) -> str:
    digits = [digit for digit in ("0123456789" if at else "123456789") if digit != number[at]]
    return number[:at] + draw.pick(digits) + number[at + 1 :]
