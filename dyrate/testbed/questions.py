"""Questions about a scene, one function per kind: referents are unique, answers follow from the scene.

How questions become prompts is left to `prompts`, which kinds a benchmark asks to `benchmarks`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dyrate.testbed.draw import Draw
from dyrate.testbed.facts import Description, Facts
from dyrate.testbed.scenes import SIDE, Thing
from dyrate.testbed.vocabulary import (
    COLORS,
    HELD_OUT,
    LOOKALIKES,
    NUMBER_WORDS,
    SETTINGS,
    SHAPES,
    SIZES,
    TEXTURES,
    WORDS,
    with_article,
)

UNANSWERABLE = "unanswerable"
MAX_COUNT = 6
CLEARLY = 14
"""Pixels by which centres must differ before one thing is left of or above another, or off the middle."""

_COLORS, _SETTINGS, _SIZES = tuple(COLORS), tuple(SETTINGS), tuple(SIZES)
_COUNTS = tuple(str(n) for n in range(MAX_COUNT + 1))
_YES_NO = ("yes", "no")
_QUADRANTS = ("top left", "top right", "bottom left", "bottom right")


class Question(NamedTuple):
    """One question with its answer; `wrong` are other answers that could be options, the likeliest first."""

    kind: str
    text: str
    answer: str
    wrong: tuple[str, ...]
    hint: str = ""


Asker = Callable[[Facts, Draw, str | None], Question | None]


def ask(kind: str, facts: Facts, draw: Draw, answer: str | None = None) -> Question | None:
    """Return a random question of the kind, None when the scene allows none.

    `answer` is the answer it shall have, which the scene may not allow either.
    """
    question = ASKERS[kind](facts, draw, answer)
    return question if question and answer in (None, question.answer) else None


_EXISTENCE_FORMS = (
    ("shape",),
    ("shape", "color"),
    ("shape", "texture"),
    ("shape", "size"),
    ("color", "texture"),
)


def _existence(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    # The form comes before the answer, so that the form does not give the answer away.
    form = draw.pick((*_EXISTENCE_FORMS, ("shape", "color"), ("shape", "color")))
    answer = answer or draw.pick(_YES_NO)
    thing = draw.pick(facts.scene.things)
    present = Description(**{attribute: getattr(thing, attribute) for attribute in form})
    key = present if answer == "yes" else _absent_like(facts, draw, present, form)
    return existence_question(draw, key, answer) if key else None


def _absent_like(facts: Facts, draw: Draw, key: Description, form: Sequence[str]) -> Description | None:
    """Return a description that fits nothing and differs in shape or colour.

    Textures and sizes stay: some are rarer than others, and one that was put in would tell the answer.
    """
    exchanged = [attribute for attribute in form if attribute in ("shape", "color")]
    for _ in range(8):
        attribute = draw.pick(exchanged)
        value = draw.pick(SHAPES if attribute == "shape" else _COLORS)
        if attribute == "color" and key.color and draw.chance(0.4):
            value = draw.pick(LOOKALIKES[key.color])
        other = key._replace(**{attribute: value})
        if not facts.count(other) and (other.color, other.shape) not in HELD_OUT:
            return other
    return None


def existence_question(draw: Draw, description: Description, answer: str) -> Question:
    """Return a yes/no question whether something in the picture fits the description."""
    text = draw.pick(
        (
            "Is there {} in the image?",
            "Is there {} in the picture?",
            "Do you see {}?",
            "Can you see {} in this photo?",
            "Does the image contain {}?",
        )
    ).format(description.a_noun)
    return _yes_no("existence", text, answer)


def absent(facts: Facts, draw: Draw, strategy: str) -> Description | None:
    """Return a (shape, colour) that nothing in the scene has, chosen as POPE chooses its negatives.

    `random`: any; `popular`: the scene's most frequent shape or colour in another combination;
    `adversarial`: both occur in the scene, but not together, or a present shape in a look-alike colour.
    """
    things = facts.scene.things
    for _ in range(12):
        color, shape = draw.pick(_COLORS), draw.pick(SHAPES)
        if strategy == "popular":
            colors = [thing.color for thing in things]
            shapes = [thing.shape for thing in things]
            if draw.chance(0.5):
                color = max(colors, key=colors.count)
            else:
                shape = max(shapes, key=shapes.count)
        elif strategy == "adversarial":
            thing = draw.pick(things)
            shape = thing.shape
            color = draw.pick(things).color if draw.chance(0.6) else draw.pick(LOOKALIKES[thing.color])
        key = Description(shape, color)
        if (color, shape) not in HELD_OUT and not facts.count(key):
            return key
    return None


def _color(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    found = facts.referable(draw, hide="color")
    if found is None:
        return None
    thing, reference = found
    text = draw.pick(("What color is {}?", "What is the color of {}?", "Which color does {} have?"))
    return Question("color", text.format(reference), thing.color, _wrong_colors(facts, draw, thing.color))


def _shape(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    found = facts.referable(draw, hide="shape")
    if found is None:
        return None
    thing, reference = found
    text = draw.pick(("What shape is {}?", "What is the shape of {}?", "Which shape does {} have?"))
    return Question("shape", text.format(reference), thing.shape, _wrong_shapes(facts, draw, thing.shape))


def _texture(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    found = facts.referable(draw, hide="texture")
    if found is None:
        return None
    thing, reference = found
    text = draw.pick(("What pattern does {} have?", "What is the pattern of {}?", "Which pattern is on {}?"))
    return Question("texture", text.format(reference), thing.texture, _others(draw, TEXTURES, thing.texture))


def _size(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    found = facts.referable(draw, hide="size")
    if found is None:
        return None
    thing, reference = found
    text = draw.pick(("How big is {}?", "What size is {}?", "Is {} small, medium or large?"))
    return Question("size", text.format(reference), thing.size, _others(draw, _SIZES, thing.size))


def _count(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    target = int(answer) if answer else draw.below(MAX_COUNT + 1)
    if target == 0:
        key = draw.pick((Description(draw.pick(SHAPES)), Description(None, draw.pick(_COLORS))))
        if facts.count(key):
            key = absent(facts, draw, "adversarial") or key
        counted = [key] if not facts.count(key) else []
    else:
        counted = [
            key for key, things in facts.groups.items() if len(things) == target and key.texture != "plain"
        ]
        if answer is None and not counted:
            sizes = {len(things) for key, things in facts.groups.items() if key.texture != "plain"}
            target = draw.pick(sorted(size for size in sizes if size <= MAX_COUNT))
            counted = [
                key
                for key, things in facts.groups.items()
                if len(things) == target and key.texture != "plain"
            ]
    if not counted:
        return None
    key = draw.pick(counted)
    text = draw.pick(
        ("How many {} are there?", "How many {} can you see?", "What is the number of {}?", "Count the {}.")
    )
    number = facts.count(key)
    near = sorted((n for n in range(MAX_COUNT + 1) if n != number), key=lambda n: abs(n - number))
    return Question("count", text.format(key.nouns), str(number), tuple(map(str, near)))


def _quantity(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether there are as many things as named."""
    answer = answer or draw.pick(_YES_NO)
    counts = facts.counts(draw.pick((("shape",), ("color",), ("color", "size"))))
    # The wrong number is right for another description of the same form: it is as likely as the right one.
    pairs = [
        (key, count, other)
        for key, count in counts.items()
        for other in counts.values()
        if 1 <= abs(count - other) <= 2 and max(count, other) <= MAX_COUNT
    ]
    if not pairs:
        return None
    key, right, wrong = draw.pick(pairs)
    named = right if answer == "yes" else wrong
    if named == 1:
        return _yes_no("quantity", f"Is there only one {key.noun} in this image?", answer)
    return _yes_no("quantity", f"Are there {NUMBER_WORDS[named]} {key.nouns} in this image?", answer)


def _position(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    middle = SIDE // 2
    found = facts.referable(draw)
    if found is None:
        return None
    thing, reference = found
    across, along = thing.x - middle, thing.y - middle
    side, height = "left" if across < 0 else "right", "top" if along < 0 else "bottom"
    forms: list[tuple[str, str, tuple[str, ...]]] = []
    if abs(across) >= CLEARLY:
        forms.append(("Is {} on the left or on the right?", side, ("left", "right")))
        forms.append(("On which side of the image is {}, left or right?", side, ("left", "right")))
    if abs(along) >= CLEARLY:
        forms.append(("Is {} at the top or at the bottom?", height, ("top", "bottom")))
    if len(forms) == 3:
        for text in ("Where in the image is {}?", "In which part of the picture is {}?", "Where is {}?"):
            forms.append((text, f"{height} {side}", _QUADRANTS))
    if not forms:
        return None
    text, answer, answers = draw.pick(forms)
    return Question("position", text.format(reference), answer, _others(draw, answers, answer))


def _quadrant(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    for _ in range(3):
        question = _position(facts, draw, answer)
        if question and question.answer in _QUADRANTS:
            return question._replace(kind="quadrant")
    return None


def _place(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether a thing is in the half of the image that is named."""
    found = facts.referable(draw)
    if found is None:
        return None
    thing, reference = found
    across, along = thing.x - SIDE // 2, thing.y - SIDE // 2
    halves = []
    if abs(across) >= CLEARLY:
        halves.append(("on the left side", across < 0))
        halves.append(("on the right side", across > 0))
    if abs(along) >= CLEARLY:
        halves.append(("in the upper half", along < 0))
        halves.append(("in the lower half", along > 0))
    wanted = (answer or draw.pick(_YES_NO)) == "yes"
    halves = [half for half in halves if half[1] == wanted]
    if not halves:
        return None
    text = draw.pick(("Is {} {} of the image?", "Can you see {} {} of the picture?"))
    return _yes_no("place", text.format(reference, draw.pick(halves)[0]), _YES_NO[not wanted])


_DIRECTIONS = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}


def _offset(direction: str, thing: Thing, other: Thing) -> tuple[int, int]:
    """Return how far `thing` lies in the direction from `other`, and how far off to the side, in pixels."""
    dx, dy = _DIRECTIONS[direction]
    across, along = thing.x - other.x, thing.y - other.y
    return across * dx + along * dy, abs(across * dy) + abs(along * dx)


def _relation(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    first, second = facts.referable(draw), facts.referable(draw)
    if first is None or second is None or first[0] == second[0]:
        return None
    answer = answer or draw.pick(_YES_NO)
    sign = 1 if answer == "yes" else -1
    directions = [d for d in _DIRECTIONS if sign * _offset(d, first[0], second[0])[0] >= CLEARLY]
    if not directions:
        return None
    text = f"Is {first[1]} {draw.pick(directions)} {second[1]}?"
    return _yes_no("relation", text, answer)


def _neighbor(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask for the colour or shape of what is nearest in a direction, within 45 degrees to either side."""
    found = facts.referable(draw)
    if found is None:
        return None
    centre, reference = found
    for direction in draw.shuffled(tuple(_DIRECTIONS)):
        inside = []
        for thing in facts.scene.things:
            ahead, aside = _offset(direction, thing, centre)
            # things on the border of the sector would make the answer a matter of opinion
            if ahead >= CLEARLY and aside <= ahead + 10:
                inside.append((ahead * ahead + aside * aside, aside <= ahead - 4, thing))
        if not inside:
            continue
        inside.sort(key=lambda entry: entry[0])
        distance, certain, thing = inside[0]
        if not certain or (len(inside) > 1 and inside[1][0] < 1.5 * distance):
            continue
        if draw.chance(0.5):
            text = draw.pick(
                ("What color is the closest thing {} {}?", "Which color is the nearest thing {} {}?")
            )
            wrong, answer = _wrong_colors(facts, draw, thing.color), thing.color
        else:
            text = draw.pick(
                ("What shape is the closest thing {} {}?", "Which shape is the nearest thing {} {}?")
            )
            wrong, answer = _wrong_shapes(facts, draw, thing.shape), thing.shape
        return Question("neighbor", text.format(direction, reference), answer, wrong)
    return None


def _compare(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    counts = facts.counts(draw.pick((("shape",), ("color",))))
    more, fewer = draw.pick(tuple(counts)), draw.pick(tuple(counts))
    if counts[more] == counts[fewer]:
        return None
    if counts[more] < counts[fewer]:
        more, fewer = fewer, more
    answer, word = answer or draw.pick(_YES_NO), draw.pick(("more", "more", "fewer"))
    first, second = (more, fewer) if (word == "more") == (answer == "yes") else (fewer, more)
    return _yes_no("compare", f"Are there {word} {first.nouns} than {second.nouns}?", answer)


def _scene(facts: Facts, draw: Draw, _: str | None) -> Question:
    text = draw.pick(
        ("What is in the background?", "What is the background made of?", "What is behind the things?")
    )
    setting = facts.scene.setting
    return Question("scene", text, setting, _others(draw, _SETTINGS, setting))


def _setting(facts: Facts, draw: Draw, answer: str | None) -> Question:
    answer = answer or draw.pick(_YES_NO)
    named = facts.scene.setting
    if answer == "no":
        named = draw.pick([setting for setting in _SETTINGS if setting != named])
    text = draw.pick(
        ("Is the background {}?", "Is there {} in the background?", "Was this photo taken over {}?")
    )
    return _yes_no("setting", text.format(named), answer)


_USES = {
    "Could you build a snowman here?": {"snow"},
    "Could you swim here?": {"water"},
    "Is this a place where plants grow?": {"grass"},
    "Could you build a sandcastle here?": {"sand"},
    "Was this made by a bricklayer?": {"brick"},
    "Was this made by a carpenter?": {"wood"},
    "Would a boat be useful here?": {"water"},
    "Would you need warm clothes here?": {"snow"},
    "Is the background something that grew on trees?": {"wood"},
    "Does this look like a meadow?": {"grass"},
    "Does this look like a wall?": {"brick"},
    "Does this look like a beach or a desert?": {"sand"},
}


def _commonsense(facts: Facts, draw: Draw, answer: str | None) -> Question:
    answer = answer or draw.pick(_YES_NO)
    texts = [text for text, fits in _USES.items() if (facts.scene.setting in fits) == (answer == "yes")]
    return _yes_no("commonsense", draw.pick(texts), answer)


def _word(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    found = facts.sign(draw, number=False)
    if found is None:
        return None
    sign, reference = found
    text = draw.pick(
        ("What does {} say?", "What is written on {}?", "What word is on {}?", "Which word is printed on {}?")
    )
    return Question("word", text.format(reference), sign.text, _wrong_words(draw, sign.text))


def _number(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    found = facts.sign(draw, number=True)
    if found is None:
        return None
    sign, reference = found
    text = draw.pick(("What number is on {}?", "Which number is printed on {}?", "What is the number on {}?"))
    return Question("number", text.format(reference), sign.text, _wrong_numbers(draw, sign.text))


def _reading(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether a sign says what is named."""
    found = facts.sign(draw, number=bool(facts.numbers) and (not facts.words or draw.chance(0.3)))
    if found is None:
        return None
    sign, reference = found
    answer = answer or draw.pick(_YES_NO)
    named = sign.text
    if answer == "no":
        named = draw.pick((_wrong_numbers if sign.is_number else _wrong_words)(draw, sign.text))
    noun = "number" if sign.is_number else "word"
    text = draw.pick(('Is the {} on {} "{}"?', 'Is the {} printed on {} "{}"?'))
    return _yes_no("reading", text.format(noun, reference, named), answer)


def _arithmetic(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    found = facts.sign(draw, number=True)
    if found is None:
        return None
    sign, reference = found
    number, answer = int(sign.text), answer or draw.pick(_YES_NO)
    larger = draw.chance(0.5)
    # Bounds lie on both sides of the number alike, so that the bound alone tells nothing.
    distance = draw.between(1, max(1, number * 6 // 10))
    bound = number - distance if larger == (answer == "yes") else number + distance
    word = "greater" if larger else "smaller"
    return _yes_no("arithmetic", f"Is the number on {reference} {word} than {bound}?", answer)


def _verify(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    return _verify_attribute(facts, draw, answer, draw.pick(("color", "color", "texture", "size", "shape")))


def _verify_color(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    return _verify_attribute(facts, draw, answer, "color")


def _verify_attribute(facts: Facts, draw: Draw, answer: str | None, hide: str) -> Question | None:
    found = facts.referable(draw, hide=hide)
    if found is None:
        return None
    thing, reference = found
    answer = answer or draw.pick(_YES_NO)
    named: str = getattr(thing, hide)
    if answer == "no":
        named = draw.pick(_alternatives(facts, draw, hide, thing))
    named = with_article(named) if hide == "shape" else named
    return _yes_no("verify", f"Is {reference} {named}?", answer)


def _choose(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    hide = draw.pick(("color", "color", "texture", "shape"))
    found = facts.referable(draw, hide=hide)
    if found is None:
        return None
    thing, reference = found
    answer: str = getattr(thing, hide)
    wrong = _alternatives(facts, draw, hide, thing)
    first, second = draw.shuffled((answer, draw.pick(wrong[:3])))
    if hide == "shape":
        first, second = with_article(first), with_article(second)
    return Question("choose", f"Is {reference} {first} or {second}?", answer, tuple(wrong))


_PEOPLE = ("Kim", "Bo", "Ana", "Max", "Lea", "Tom", "Zoe", "Ben")


def _hint(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask for the shape or colour of what a person likes; only the hint tells what two people like."""
    for attribute in draw.shuffled(("color", "shape", "texture")):
        asked = draw.pick([asked for asked in ("color", "shape") if asked != attribute])
        found: dict[str, set[str]] = {}
        for thing in facts.scene.things:
            found.setdefault(getattr(thing, attribute), set()).add(getattr(thing, asked))
        everything = set().union(*found.values())
        for liked in draw.shuffled([value for value, answers in found.items() if len(answers) == 1]):
            (answer,) = found[liked]
            others = [value for value, answers in found.items() if answer not in answers]
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


def _unanswerable(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask about a thing or a sign that is not there."""
    if not facts.scene.signs and draw.chance(0.4):
        text = draw.pick(
            ("What does the sign say?", "What is written on the sign?", "What number is on the sign?")
        )
    else:
        shape = Description(draw.pick(SHAPES))
        key = shape if not facts.count(shape) else absent(facts, draw, "adversarial")
        if key is None:
            return None
        attribute = "What color is the {}?" if key.color is None else "Where is the {}?"
        text = draw.pick((attribute, "How big is the {}?", "What pattern does the {} have?")).format(key.noun)
    return Question("unanswerable", text, UNANSWERABLE, ())


def blind_question(draw: Draw) -> Question:
    """Return a question to which a photo that shows nothing has no answer."""
    text = draw.pick(
        (
            "What does the sign say?",
            "What number is on the sign?",
            f"What color is the {draw.pick(SHAPES)}?",
            f"What shape is the {draw.pick(_COLORS)} thing?",
            f"How many {Description(draw.pick(SHAPES)).nouns} are there?",
        )
    )
    return Question("unanswerable", text, UNANSWERABLE, ())


def _yes_no(kind: str, text: str, answer: str) -> Question:
    return Question(kind, text, answer, ("no",) if answer == "yes" else ("yes",))


def _others(draw: Draw, answers: Sequence[str], answer: str) -> tuple[str, ...]:
    return tuple(draw.shuffled([other for other in answers if other != answer]))


def _alternatives(facts: Facts, draw: Draw, attribute: str, thing: Thing) -> tuple[str, ...]:
    """Return other values of the thing's attribute, without naming a held-out (colour, shape)."""
    match attribute:
        case "color":
            return tuple(
                c for c in _wrong_colors(facts, draw, thing.color) if (c, thing.shape) not in HELD_OUT
            )
        case "shape":
            return tuple(
                s for s in _wrong_shapes(facts, draw, thing.shape) if (thing.color, s) not in HELD_OUT
            )
        case "texture":
            return _others(draw, TEXTURES, thing.texture)
        case _:
            return _others(draw, _SIZES, thing.size)


def _wrong_colors(facts: Facts, draw: Draw, color: str) -> tuple[str, ...]:
    """Return the other colours: first a look-alike, then those in the scene, then the rest."""
    first = draw.pick(LOOKALIKES[color])
    present = draw.shuffled(sorted({thing.color for thing in facts.scene.things} - {color, first}))[:3]
    rest = draw.shuffled([c for c in _COLORS if c not in (color, first, *present)])
    return (first, *present, *rest)


def _wrong_shapes(facts: Facts, draw: Draw, shape: str) -> tuple[str, ...]:
    present = draw.shuffled(sorted({thing.shape for thing in facts.scene.things} - {shape}))[:2]
    rest = draw.shuffled([s for s in SHAPES if s != shape and s not in present])
    return (*present, *rest)


def _wrong_words(draw: Draw, word: str) -> tuple[str, ...]:
    """Return other words, those that begin alike or are as long first."""
    alike = [w for w in WORDS if w != word and (w[0] == word[0] or len(w) == len(word))]
    return tuple(draw.sample(alike, 4))


def _wrong_numbers(draw: Draw, number: str) -> tuple[str, ...]:
    """Return other numbers of as many digits, one digit changed each."""
    wrong: list[str] = []
    while len(wrong) < 4:
        at = draw.below(len(number))
        changed = number[:at] + str(draw.between(0 if at else 1, 9)) + number[at + 1 :]
        if changed != number and changed not in wrong:
            wrong.append(changed)
    return tuple(wrong)


ASKERS: dict[str, Asker] = {
    "existence": _existence,
    "verify": _verify,
    "verify_color": _verify_color,
    "choose": _choose,
    "color": _color,
    "shape": _shape,
    "texture": _texture,
    "size": _size,
    "count": _count,
    "quantity": _quantity,
    "position": _position,
    "quadrant": _quadrant,
    "place": _place,
    "relation": _relation,
    "neighbor": _neighbor,
    "compare": _compare,
    "scene": _scene,
    "setting": _setting,
    "commonsense": _commonsense,
    "word": _word,
    "number": _number,
    "reading": _reading,
    "arithmetic": _arithmetic,
    "hint": _hint,
    "unanswerable": _unanswerable,
}
"""The function that asks each kind of question."""

_YES_NO_KINDS = (
    "existence",
    "verify",
    "verify_color",
    "quantity",
    "place",
    "relation",
    "compare",
    "setting",
    "commonsense",
    "reading",
    "arithmetic",
)

ANSWERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_YES_NO_KINDS, _YES_NO),
    "color": _COLORS,
    "shape": SHAPES,
    "texture": TEXTURES,
    "size": _SIZES,
    "count": _COUNTS,
    "scene": _SETTINGS,
    "quadrant": _QUADRANTS,
}
"""The answers of the kinds that have few; a benchmark asks for all of them equally often."""
