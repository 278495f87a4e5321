"""Scene specifications: what stands where, how hard it is to see, and to which split a scene belongs."""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dyrate.testbed.draw import Draw
from dyrate.testbed.sprites import FONT_SIZES, lettering, silhouette
from dyrate.testbed.vocabulary import (
    COLORS,
    HELD_OUT,
    LOOKALIKES,
    PLATES,
    SETTINGS,
    SHAPES,
    SIZE_OF,
    SIZES,
    TEXTURES,
    WORDS,
)

SIDE = 168
"""Pixels of an image's side."""

MIN_VISIBLE = 0.65
"""Later things never cover more than the rest of an earlier one."""

Split = Literal["train", "validation", "test"]
Domain = Literal["in-domain", "near-domain", "out-domain"]

_RESIDUES: dict[Split, range] = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
_PATTERNED = tuple(texture for texture in TEXTURES if texture != "plain")
_COLOR_NAMES = tuple(COLORS)
_TRAINED_SHAPES = {color: tuple(s for s in SHAPES if (color, s) not in HELD_OUT) for color in COLORS}
_TRAINED_COLORS = {shape: tuple(c for c in COLORS if (c, shape) not in HELD_OUT) for shape in SHAPES}
_HELD_OUT_PAIRS = tuple(sorted(HELD_OUT))


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


class Thing(NamedTuple):
    """One object: names of its attributes, its width and its centre in pixels."""

    shape: str
    color: str
    texture: str
    width: int
    x: int
    y: int

    @property
    def size(self) -> str:
        """Return the name of the size class."""
        return SIZE_OF[self.width]


class Sign(NamedTuple):
    """One plate with a printed word or number; x and y are its upper left corner in pixels."""

    text: str
    plate: str
    font_size: int
    x: int
    y: int

    @property
    def is_number(self) -> bool:
        """Return whether the text is a number."""
        return self.text.isdigit()


class Photo(NamedTuple):
    """How the scene was photographed; no part of what it contains."""

    noise: int = 0
    noise_offset: int = 0
    background: int = 0
    light: int = 256
    """Brightness in 1/256."""
    blur: float = 0.0
    """Radius in pixels."""
    readable: bool = True


class Scene(NamedTuple):
    """A setting with things (painted in this order) and signs, and the photo that was taken of it."""

    setting: str
    things: tuple[Thing, ...]
    signs: tuple[Sign, ...]
    visible: tuple[float, ...]
    """Share of each thing's pixels that no later thing covers."""
    photo: Photo

    def fingerprint(self) -> int:
        """Return a hash of what the scene contains, whatever the photo."""
        content = repr((self.setting, tuple(map(tuple, self.things)), tuple(map(tuple, self.signs))))
        return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "little")


def split_of(scene: Scene) -> Split:
    """Return the split that the scene's content belongs to: 8 in 10 train, 1 validation, 1 test.

    The split is a function of the content alone, so no scene can be in two splits.
    """
    residue = scene.fingerprint() % 10
    return next(split for split, residues in _RESIDUES.items() if residue in residues)


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
    setting = draw.pick(tuple(SETTINGS))
    stage = _Stage()
    signs: list[Sign] = []
    plates = draw.shuffled(tuple(PLATES))
    for plate in plates[: draw.weighted(difficulty.signs)]:
        sign = _place_sign(draw, stage, plate, _sign_text(draw, difficulty, signs))
        if sign:
            signs.append(sign)
    for color, shape, texture, width in _attributes(draw, difficulty, domain):
        stage.place(draw, Thing(shape, color, texture, width, 0, 0), draw.chance(difficulty.occluded))
    return Scene(setting, tuple(stage.things), tuple(signs), stage.visible(), _photo(draw, difficulty))


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


def _attributes(draw: Draw, difficulty: Difficulty, domain: Domain) -> list[tuple[str, str, str, int]]:
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
    attributes = []
    for i in range(count):
        color, shape = _pair(draw, domain)
        if i < alike:
            color, shape = _shared(draw, domain, shared_color, shared_shape)
        elif colors and draw.chance(difficulty.lookalike):
            color = draw.pick(LOOKALIKES[draw.pick(colors)])
            if domain == "out-domain" or (color, shape) in HELD_OUT:
                color, shape = _shared(draw, domain, color, None)
        colors.append(color)
        size = draw.weighted(difficulty.sizes)
        patterned = size != "small" and draw.chance(difficulty.textured)
        attributes.append(
            (color, shape, draw.pick(_PATTERNED) if patterned else "plain", draw.pick(SIZES[size]))
        )
    return draw.shuffled(attributes)


def _pair(draw: Draw, domain: Domain) -> tuple[str, str]:
    if domain == "out-domain" or (domain == "near-domain" and draw.chance(0.5)):
        return draw.pick(_HELD_OUT_PAIRS)
    color = draw.pick(_COLOR_NAMES)
    return color, draw.pick(_TRAINED_SHAPES[color])


def _shared(draw: Draw, domain: Domain, color: str | None, shape: str | None) -> tuple[str, str]:
    """Complete a (colour, shape) pair within the domain."""
    if color and shape:
        return color, shape
    if domain == "out-domain" or (domain == "near-domain" and draw.chance(0.5)):
        return draw.pick([pair for pair in _HELD_OUT_PAIRS if color == pair[0] or shape == pair[1]])
    if shape:
        return draw.pick(_TRAINED_COLORS[shape]), shape
    assert color
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


def _place_sign(draw: Draw, stage: "_Stage", plate: str, text: str) -> Sign | None:
    font_size = draw.pick(FONT_SIZES)
    height, width = lettering(text, font_size).shape
    for _ in range(8):
        x, y = draw.between(2, SIDE - 2 - width), draw.between(2, SIDE - 2 - height)
        if stage.is_free(x, y, width, height):
            stage.boxes.append((x, y, x + width, y + height))
            stage.signs += 1
            return Sign(text, plate, font_size, x, y)
    return None


class _Stage:
    """What is placed so far: boxes (signs first, then things) and the pixels each thing still shows."""

    ATTEMPTS = 14
    GAP = 2

    def __init__(self) -> None:
        self.boxes: list[tuple[int, int, int, int]] = []
        self.signs = 0
        self.things: list[Thing] = []
        self.shown: list[NDArray[np.bool_]] = []
        self.pixels: list[int] = []
        self.areas: list[int] = []

    def is_free(self, x: int, y: int, width: int, height: int) -> bool:
        gap = self.GAP
        right, bottom = x + width + gap, y + height + gap
        x, y = x - gap, y - gap
        return all(r <= x or left >= right or b <= y or top >= bottom for left, top, r, b in self.boxes)

    def place(self, draw: Draw, thing: Thing, may_cover: bool) -> None:
        """Find a place for the thing; without one, after some attempts, leave it out."""
        width = thing.width
        for _ in range(self.ATTEMPTS):
            x, y = draw.between(1, SIDE - 1 - width), draw.between(1, SIDE - 1 - width)
            if self.is_free(x, y, width, width):
                covered: dict[int, tuple[NDArray[np.bool_], int]] | None = {}
            else:
                covered = self._covered(thing, x, y) if may_cover else None
            if covered is None:
                continue
            for i, (shown, pixels) in covered.items():
                self.shown[i], self.pixels[i] = shown, pixels
            inside, area = silhouette(thing.shape, width)
            self.boxes.append((x, y, x + width, y + width))
            self.things.append(thing._replace(x=x + width // 2, y=y + width // 2))
            self.shown.append(inside)
            self.pixels.append(area)
            self.areas.append(area)
            return

    def _covered(self, thing: Thing, x: int, y: int) -> dict[int, tuple[NDArray[np.bool_], int]] | None:
        """Return what earlier things would still show under this one at x, y; None if too little."""
        inside, _ = silhouette(thing.shape, thing.width)
        right, bottom = x + thing.width, y + thing.width
        covered = {}
        for index, (left, top, r, b) in enumerate(self.boxes):
            x0, y0, x1, y1 = max(x, left), max(y, top), min(right, r), min(bottom, b)
            if x0 >= x1 or y0 >= y1:
                continue
            i = index - self.signs
            if i < 0 or self.things[i].color == thing.color:
                return None  # signs stay readable, and one colour on itself would hide the outline
            shown = self.shown[i].copy()
            shown[y0 - top : y1 - top, x0 - left : x1 - left] &= ~inside[y0 - y : y1 - y, x0 - x : x1 - x]
            pixels = int(np.count_nonzero(shown))
            if pixels < MIN_VISIBLE * self.areas[i]:
                return None
            covered[i] = (shown, pixels)
        return covered

    def visible(self) -> tuple[float, ...]:
        return tuple(pixels / area for pixels, area in zip(self.pixels, self.areas, strict=True))
