"""What a question is, and what its wrong answers are."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.scenes import Thing
from dyrate.testbed.world.vocabulary import COLOR_NAMES, LOOKALIKES, SHAPES, SIZE_NAMES, TEXTURES


class Question(NamedTuple):
    """One question with its answer; `wrong` are other answers that could be options, the likeliest first."""

    kind: str
    text: str
    answer: str
    wrong: tuple[str, ...]
    hint: str = ""


Asker = Callable[[Facts, Draw, str | None], Question | None]
"""From a scene's facts and the wanted answer, if any, to a question, None where there is none."""

UNANSWERABLE = "unanswerable"
YES_NO = ("yes", "no")


def yes_no(kind: str, text: str, answer: str) -> Question:
    """Return a yes/no question."""
    return Question(kind, text, answer, ("no",) if answer == "yes" else ("yes",))


def others(draw: Draw, answers: Sequence[str], answer: str) -> tuple[str, ...]:
    """Return the other answers in a random order."""
    return tuple(draw.shuffled([other for other in answers if other != answer]))


def other_values(facts: Facts, draw: Draw, attribute: str, thing: Thing) -> tuple[str, ...]:
    """Return the other values of a thing's attribute, the likeliest to be taken for it first."""
    match attribute:
        case "color":
            return _wrong_colors(facts, draw, thing.color)
        case "shape":
            return _wrong_shapes(facts, draw, thing.shape)
        case "texture":
            return others(draw, TEXTURES, thing.texture)
        case _:
            return others(draw, SIZE_NAMES, thing.size)


def _wrong_colors(facts: Facts, draw: Draw, color: str) -> tuple[str, ...]:
    """Return the other colours: first a look-alike of the right one, another of the scene and its look-alike.

    Two pairs of look-alikes, or one and a third: the options alone do not tell which is right.
    """
    alike = draw.pick(LOOKALIKES[color])
    taken = {color, alike}
    other = draw.pick(
        sorted({thing.color for thing in facts.scene.things} - taken) or _without(COLOR_NAMES, taken)
    )
    taken.add(other)
    near = draw.pick(_without(LOOKALIKES[other], taken) or _without(COLOR_NAMES, taken))
    first = (alike, other, near) if draw.chance(2 / 3) else (other, near, alike)
    return (*first, *draw.shuffled(_without(COLOR_NAMES, {*taken, near})))


def _without(names: Sequence[str], taken: set[str]) -> list[str]:
    return [name for name in names if name not in taken]


def _wrong_shapes(facts: Facts, draw: Draw, shape: str) -> tuple[str, ...]:
    """Return the other shapes, those in the scene first."""
    present = draw.shuffled(sorted({thing.shape for thing in facts.scene.things} - {shape}))[:2]
    rest = draw.shuffled([s for s in SHAPES if s != shape and s not in present])
    return (*present, *rest)
