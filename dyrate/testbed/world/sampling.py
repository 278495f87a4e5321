"""Random scenes of a split, a difficulty and a domain."""

from dataclasses import dataclass, field

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.placement import Placement
from dyrate.testbed.world.scenes import Domain, Photo, Scene, Sign, Split, Thing, split_of
from dyrate.testbed.world.vocabulary import (
    COLOR_NAMES,
    HELD_OUT,
    LOOKALIKES,
    PLATES,
    SETTING_NAMES,
    SHAPES,
    SIZES,
    TEXTURES,
    WORDS,
)


@dataclass(frozen=True)
class Difficulty:
    """How hard scenes are to see; shares are probabilities per thing unless said otherwise."""

    things: tuple[int, int] = (4, 12)
    """Fewest and most things."""
    sizes: dict[str, float] = field(default_factory=lambda: {"small": 0.35, "medium": 0.4, "large": 0.25})
    """Weights of the size classes."""
    textured: float = 0.5
    """Share with a pattern (small things are always plain: their pattern could not be seen)."""
    lookalike: float = 0.25
    """Share that takes a colour easily confused with that of an earlier thing."""
    occluded: float = 0.3
    """Share that may cover a part of earlier things."""
    repeated: float = 0.5
    """Share of scenes in which several things have one colour, shape or both in common."""
    signs: dict[int, float] = field(default_factory=lambda: {0: 0.3, 1: 0.45, 2: 0.25})
    """Weights of the number of signs in a scene."""
    numbers: float = 0.4
    """Share of signs that carry a number, not a word."""
    noise: tuple[int, int] = (3, 18)
    """Lowest and highest standard deviation of pixel noise, in 1/255."""
    mild: float = 0.16
    """Share of photos that are somewhat blurred or dark, half of them each, and still answerable."""
    blurs: tuple[float, ...] = (0.8, 1.2, 1.6, 2.0)
    """Radii in pixels of the blur in such photos."""
    dark: tuple[int, int] = (60, 130)
    """Lowest and highest brightness of such photos, in 1/256."""
    strong: float = 0.04
    """Share of photos too blurred or dark to answer anything."""


DEFAULT = Difficulty()

_PATTERNED = tuple(texture for texture in TEXTURES if texture != "plain")
_TRAINED_SHAPES = {color: tuple(s for s in SHAPES if (color, s) not in HELD_OUT) for color in COLOR_NAMES}
_TRAINED_COLORS = {shape: tuple(c for c in COLOR_NAMES if (c, shape) not in HELD_OUT) for shape in SHAPES}
_HELD_OUT_PAIRS = tuple(sorted(HELD_OUT))


def sample_scene(
    draw: Draw, split: Split, difficulty: Difficulty = DEFAULT, domain: Domain = "in-domain"
) -> Scene:
    """Return a random scene of the split.

    In `near-domain` about half of the things, in `out-domain` all are held-out (colour, shape) pairs;
    `in-domain`, the training distribution, has none.
    """
    while True:
        scene = _sample(draw, difficulty, domain)
        if split_of(scene) == split:
            return scene


def _sample(draw: Draw, difficulty: Difficulty, domain: Domain) -> Scene:
    setting = draw.pick(SETTING_NAMES)
    placement = Placement()
    plates = draw.shuffled(tuple(PLATES))
    for plate in plates[: draw.weighted(difficulty.signs)]:
        placement.add_sign(draw, plate, _sign_text(draw, difficulty, placement.signs))
    for thing in _things(draw, difficulty, domain):
        placement.add_thing(draw, thing, may_cover=draw.chance(difficulty.occluded))
    return Scene(
        setting,
        tuple(placement.things),
        tuple(placement.signs),
        placement.visible(),
        _photo(draw, difficulty),
    )


def _sign_text(draw: Draw, difficulty: Difficulty, signs: list[Sign]) -> str:
    taken = {sign.text for sign in signs}
    while True:
        if draw.chance(difficulty.numbers):
            digits = draw.between(1, 3)
            text = str(draw.between(10 ** (digits - 1), 10**digits - 1))
        else:
            text = draw.pick(WORDS)
        if text not in taken:
            return text


def _things(draw: Draw, difficulty: Difficulty, domain: Domain) -> list[Thing]:
    """Return the things that are to be placed, not yet at any place."""
    count = draw.between(*difficulty.things)
    shared_color = shared_shape = None
    alike = 0
    if draw.chance(difficulty.repeated):
        alike = min(draw.between(2, 6), count)
        kind = draw.below(5)
        shared_color, shared_shape = _pair(draw, domain)
        shared_color = None if kind in (0, 1) else shared_color
        shared_shape = None if kind in (2, 3) else shared_shape
    colors: list[str] = []
    things = []
    for i in range(count):
        color, shape = _pair(draw, domain)
        if i < alike:
            color, shape = _pair(draw, domain, shared_color, shared_shape)
        elif colors and draw.chance(difficulty.lookalike):
            color = draw.pick(LOOKALIKES[draw.pick(colors)])
            if domain == "out-domain" or (color, shape) in HELD_OUT:
                color, shape = _pair(draw, domain, color, None)
        colors.append(color)
        size = draw.weighted(difficulty.sizes)
        patterned = size != "small" and draw.chance(difficulty.textured)
        texture = draw.pick(_PATTERNED) if patterned else "plain"
        things.append(Thing(shape, color, texture, draw.pick(SIZES[size]), 0, 0))
    return draw.shuffled(things)


def _pair(draw: Draw, domain: Domain, color: str | None = None, shape: str | None = None) -> tuple[str, str]:
    """Complete a (colour, shape) pair within the domain."""
    if color and shape:
        return color, shape
    if domain == "out-domain" or (domain == "near-domain" and draw.chance(0.5)):
        return draw.pick([(c, s) for c, s in _HELD_OUT_PAIRS if color in (None, c) and shape in (None, s)])
    if shape:
        return draw.pick(_TRAINED_COLORS[shape]), shape
    color = color or draw.pick(COLOR_NAMES)
    return color, draw.pick(_TRAINED_SHAPES[color])


def _photo(draw: Draw, difficulty: Difficulty) -> Photo:
    noise, light, blur, readable = draw.between(*difficulty.noise), draw.between(236, 276), 0.0, True
    fate = draw.uniform()
    if fate < difficulty.strong:
        readable = False
        if draw.chance(0.5):
            blur = draw.pick((22.0, 26.0, 30.0))
        else:
            light, noise = draw.between(3, 7), max(noise, 8)
    elif fate < difficulty.strong + difficulty.mild:
        if draw.chance(0.5):
            blur = draw.pick(difficulty.blurs)
        else:
            light = draw.between(*difficulty.dark)
    return Photo(noise, draw.below(1 << 20), draw.below(1 << 20), light, blur, readable)
