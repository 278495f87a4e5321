"""Questions about where things are, in the image and from one another."""

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds.question import YES_NO, Question, other_values, others, yes_no
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.scenes import SIDE, Thing

CLEARLY = 14
"""Pixels by which centres must differ before one thing is left of or above another, or off the middle."""

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")


def ask_position(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask in which half or quarter of the image a thing is."""
    middle = SIDE // 2
    if (referred := facts.referable(draw)) is None:
        return None
    thing, reference = referred
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
            forms.append((text, f"{height} {side}", QUADRANTS))
    if not forms:
        return None
    text, answer, answers = draw.pick(forms)
    return Question("position", text.format(reference), answer, others(draw, answers, answer))


def ask_quadrant(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask in which quarter of the image a thing is."""
    for _ in range(3):
        question = ask_position(facts, draw, answer)
        if question and question.answer in QUADRANTS:
            return question._replace(kind="quadrant")
    return None


def ask_place(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether a thing is in the half of the image that is named."""
    if (referred := facts.referable(draw)) is None:
        return None
    thing, reference = referred
    across, along = thing.x - SIDE // 2, thing.y - SIDE // 2
    halves = []
    if abs(across) >= CLEARLY:
        halves.append(("on the left side", across < 0))
        halves.append(("on the right side", across > 0))
    if abs(along) >= CLEARLY:
        halves.append(("in the upper half", along < 0))
        halves.append(("in the lower half", along > 0))
    wanted = (answer or draw.pick(YES_NO)) == "yes"
    halves = [half for half in halves if half[1] == wanted]
    if not halves:
        return None
    text = draw.pick(("Is {} {} of the image?", "Can you see {} {} of the picture?"))
    return yes_no("place", text.format(reference, draw.pick(halves)[0]), YES_NO[not wanted])


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


def ask_relation(facts: Facts, draw: Draw, answer: str | None) -> Question | None:
    """Ask whether a thing is left of, right of, above or below another."""
    first, second = facts.referable(draw), facts.referable(draw)
    if first is None or second is None or first[0] == second[0]:
        return None
    answer = answer or draw.pick(YES_NO)
    sign = 1 if answer == "yes" else -1
    directions = [d for d in _DIRECTIONS if sign * _offset(d, first[0], second[0])[0] >= CLEARLY]
    if not directions:
        return None
    text = f"Is {first[1]} {draw.pick(directions)} {second[1]}?"
    return yes_no("relation", text, answer)


def ask_neighbor(facts: Facts, draw: Draw, _: str | None) -> Question | None:
    """Ask for the colour or shape of what is nearest in a direction, within 45 degrees to either side."""
    if (referred := facts.referable(draw)) is None:
        return None
    centre, reference = referred
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
        attribute = "color" if draw.chance(0.5) else "shape"
        asked = draw.pick(
            (f"What {attribute} is the closest thing", f"Which {attribute} is the nearest thing")
        )
        wrong = other_values(facts, draw, attribute, thing)
        return Question("neighbor", f"{asked} {direction} {reference}?", getattr(thing, attribute), wrong)
    return None
