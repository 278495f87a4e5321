"""Captions: five templates that agree on what is salient and differ in wording and in the rest."""

from typing import NamedTuple

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.referring_expressions import Description
from dyrate.testbed.world.scenes import SIDE, Scene, Thing
from dyrate.testbed.world.vocabulary import NUMBER_WORDS, SIZES

TEMPLATES = 5

_SIZE_RANK = {size: rank for rank, size in enumerate(reversed(SIZES))}
_COLUMNS = ("on the left", "in the middle", "on the right")
_SETTINGS = {
    "grass": ("on the grass", "a green meadow"),
    "sand": ("on the sand", "a sandy beach"),
    "snow": ("in the snow", "a snowy field"),
    "water": ("on the water", "a blue lake"),
    "brick": ("on a brick wall", "a brick wall"),
    "wood": ("on a wooden floor", "a wooden floor"),
}


class ThingGroup(NamedTuple):
    """Things of one shape and colour, and how a caption names them and the place of the first."""

    things: tuple[Thing, ...]
    phrase: str
    place: str


def salient(scene: Scene) -> list[ThingGroup]:
    """Return the scene's groups, the most salient first: larger before smaller, then in reading order."""
    by_pair: dict[tuple[str, str], list[Thing]] = {}
    for thing in sorted(scene.things, key=lambda t: (_SIZE_RANK[t.size], t.y * 3 // SIDE, t.x)):
        by_pair.setdefault((thing.color, thing.shape), []).append(thing)
    return [
        ThingGroup(tuple(things), _phrase(things), _COLUMNS[things[0].x * 3 // SIDE])
        for things in by_pair.values()
    ]


def caption(scene: Scene, draw: Draw, template: int | None = None) -> str:
    """Return a one-sentence caption, mostly of 20 to 45 words; the template (0 to 4) can be named."""
    template = draw.below(TEMPLATES) if template is None else template
    groups = salient(scene)
    most = (3 if scene.signs else 4) - draw.chance(0.3)
    on, setting = _SETTINGS[scene.setting]
    match template:
        case 0:
            lead = draw.pick(("a photo of", "a picture of", "an image of"))
            text = f"{lead} {_listed(groups, most)} {on}{_signs(scene, 'with', 'that says')}"
        case 1:
            verb = draw.pick(("can be seen", "are visible"))
            text = f"{_listed(groups, most)} {verb} {on}{_signs(scene, 'beside', 'that says')}"
        case 2:
            text = f"{setting} with {_listed(groups, most + 1)}{_signs(scene, 'and', 'that says')}"
        case 3:
            total = f"{NUMBER_WORDS[len(scene.things)]} {draw.pick(('things', 'objects'))}"
            text = f"there are {total} {on}, including {_listed(groups, most)}"
            text += _signs(scene, "and", "that reads")
        case 4:
            first, rest = groups[0], groups[1:]
            near = f", near {_listed(rest, most - 1)}" if rest else ""
            text = (
                f"{first.phrase} {first.place} of the picture {on}{near}{_signs(scene, 'with', 'that says')}"
            )
        case _:
            raise ValueError(
                f"there is no caption template {template}; they are numbered 0 to {TEMPLATES - 1}"
            )
    return text[0].upper() + text[1:] + "."


def references(scene: Scene, draw: Draw) -> list[str]:
    """Return the five captions of a benchmark's image, one per template, in a random order."""
    return [caption(scene, draw, template) for template in draw.shuffled(range(TEMPLATES))]


def _phrase(things: list[Thing]) -> str:
    first = things[0]
    if len(things) > 1:
        return f"{NUMBER_WORDS[len(things)]} {Description(first.shape, first.color).nouns}"
    texture = None if first.texture == "plain" else first.texture
    size = None if first.size == "medium" else first.size
    return Description(first.shape, first.color, texture, size).a_noun


def _listed(groups: list[ThingGroup], most: int) -> str:
    phrases = [group.phrase for group in groups[:most]]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]


def _signs(scene: Scene, link: str, verb: str) -> str:
    if not scene.signs:
        return ""
    signs = sorted(scene.signs, key=lambda sign: (sign.y * 3 // SIDE, sign.x))
    return f", {link} " + " and ".join(f"a {sign.plate} sign {verb} {sign.text}" for sign in signs)
