"""Questions about the attributes of things, and whether there are such."""

from collections.abc import Sequence

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds.question import YES_NO, Question, other_values, yes_no
from dyrate.testbed.world.referring_expressions import Description, Facts
from dyrate.testbed.world.scenes import Thing
from dyrate.testbed.world.vocabulary import COLOR_NAMES, HELD_OUT, LOOKALIKES, SHAPES, with_article

_EXISTENCE_FORMS = (
    ("shape",),
    *(3 * [("shape", "color")]),
    ("shape", "texture"),
    ("shape", "size"),
    ("color", "texture"),
)


def ask_existence(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether there is something of a description."""
    # The form comes before the answer, so that the form does not give the answer away.
    form = draw.pick(_EXISTENCE_FORMS)
    answer = answer or draw.pick(YES_NO)
    thing = draw.pick(facts.scene.things)
    present = Description(**{attribute: getattr(thing, attribute) for attribute in form})
    key = present if answer == "yes" else _absent_like(facts, draw, present, form)
    if key is None:
        return None
    text = draw.pick(
        (
            "Is there {} in the image?",
            "Is there {} in the picture?",
            "Do you see {}?",
            "Can you see {} in this photo?",
            "Does the image contain {}?",
        )
    )
    return yes_no("existence", text.format(key.a_noun), answer)


def _absent_like(facts: Facts, draw: Draw, key: Description, form: Sequence[str]) -> Description | None:
    """Return a description that fits nothing and differs in shape or colour.

    Textures and sizes stay: some are rarer than others, and one that was put in would tell the answer.
    """
    exchanged = [attribute for attribute in form if attribute in ("shape", "color")]
    for _ in range(8):
        attribute = draw.pick(exchanged)
        value = draw.pick(SHAPES if attribute == "shape" else COLOR_NAMES)
        if attribute == "color" and key.color and draw.chance(0.4):
            value = draw.pick(LOOKALIKES[key.color])
        other = key._replace(**{attribute: value})
        if not facts.count(other) and (other.color, other.shape) not in HELD_OUT:
            return other
    return None


def absent(facts: Facts, draw: Draw, strategy: str) -> Description | None:
    """Return a (shape, colour) that nothing in the scene has, chosen as POPE chooses its negatives.

    `random`: any; `popular`: the scene's most frequent shape or colour in another combination;
    `adversarial`: both occur in the scene, but not together, or a present shape in a look-alike colour.
    """
    things = facts.scene.things
    for _ in range(12):
        color, shape = draw.pick(COLOR_NAMES), draw.pick(SHAPES)
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


_ATTRIBUTE_FORMS = {
    "color": ("What color is {}?", "What is the color of {}?", "Which color does {} have?"),
    "shape": ("What shape is {}?", "What is the shape of {}?", "Which shape does {} have?"),
    "texture": ("What pattern does {} have?", "What is the pattern of {}?", "Which pattern is on {}?"),
    "size": ("How big is {}?", "What size is {}?", "Is {} small, medium or large?"),
}


def ask_attribute(attribute: str, facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask for the colour, shape, pattern or size class of a thing."""
    if (referred := facts.referable(draw, hide=attribute)) is None:
        return None
    thing, reference = referred
    text = draw.pick(_ATTRIBUTE_FORMS[attribute]).format(reference)
    return Question(attribute, text, getattr(thing, attribute), other_values(facts, draw, attribute, thing))


def ask_verify(facts: Facts, draw: Draw, answer: str | None, hide: str | None = None) -> Question | None:
    """Ask whether a thing has the named attribute `hide`, which may be any of the four."""
    hide = hide or draw.pick(("color", "color", "texture", "size", "shape"))
    if (referred := facts.referable(draw, hide=hide)) is None:
        return None
    thing, reference = referred
    answer = answer or draw.pick(YES_NO)
    named: str = getattr(thing, hide)
    if answer == "no":
        named = draw.pick(_alternatives(facts, draw, hide, thing)[:4])
    named = with_article(named) if hide == "shape" else named
    return yes_no("verify", f"Is {reference} {named}?", answer)


def ask_choose(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask which of two colours, textures or shapes a thing has."""
    hide = draw.pick(("color", "color", "texture", "shape"))
    if (referred := facts.referable(draw, hide=hide)) is None:
        return None
    thing, reference = referred
    answer: str = getattr(thing, hide)
    wrong = _alternatives(facts, draw, hide, thing)
    first, second = draw.shuffled((answer, draw.pick(wrong[:3])))
    if hide == "shape":
        first, second = with_article(first), with_article(second)
    return Question("choose", f"Is {reference} {first} or {second}?", answer, wrong)


def _alternatives(facts: Facts, draw: Draw, attribute: str, thing: Thing) -> tuple[str, ...]:
    """Return other values of the thing's attribute, without naming a held-out (colour, shape)."""
    values = other_values(facts, draw, attribute, thing)
    if attribute == "color":
        return tuple(color for color in values if (color, thing.shape) not in HELD_OUT)
    if attribute == "shape":
        return tuple(shape for shape in values if (thing.color, shape) not in HELD_OUT)
    return values
