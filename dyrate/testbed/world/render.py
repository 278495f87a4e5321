"""From a scene to pixels: backgrounds and noise come from banks made once, the rest from cached sprites."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dyrate.testbed.world.scenes import SIDE, Scene, Sign, Thing
from dyrate.testbed.world.sprites import BODY, CLEAR, PATTERN, Bytes, lettering, sprite
from dyrate.testbed.world.vocabulary import COLORS, PLATES, SETTINGS

_LIGHT_PATTERN, _DARK_PATTERN = (244, 240, 232), (24, 22, 26)
_MARGIN = 48
"""Backgrounds are this much larger than the image: each photo shows another part."""
_VARIANTS = 4
_NOISE_VALUES = 1 << 20


def render(scene: Scene) -> Bytes:
    """Return the scene's photo, uint8 [168, 168, 3]; the same scene gives the same bytes."""
    photo = scene.photo
    image = _background(scene.setting, photo.background)
    for thing in scene.things:
        _paint_thing(image, thing)
    for sign in scene.signs:
        _paint_sign(image, sign)
    if photo.blur:
        blurred = Image.fromarray(image).filter(ImageFilter.BoxBlur(photo.blur))
        image = np.array(blurred)
    start = photo.noise_offset % (_NOISE_VALUES - image.size)
    noise = _noise(photo.noise)[start : start + image.size].reshape(image.shape)
    lit = np.multiply(image, np.float32(photo.light / 256), dtype=np.float32)
    lit += noise
    np.clip(lit, 0, 255, out=lit)
    return lit.astype(np.uint8)


def _paint_thing(image: Bytes, thing: Thing) -> None:
    pixels = sprite(thing.shape, thing.width, thing.texture)
    left, top = thing.x - thing.width // 2, thing.y - thing.width // 2
    region = image[top : top + thing.width, left : left + thing.width]
    painted = _palette(thing.color, thing.texture)[pixels]
    np.copyto(region, painted, where=(pixels != CLEAR)[:, :, None])


def _paint_sign(image: Bytes, sign: Sign) -> None:
    ink = lettering(sign.text, sign.font_size)
    height, width = ink.shape
    image[sign.y : sign.y + height, sign.x : sign.x + width] = _ink_ramp(sign.plate)[ink]


@cache
def _palette(color: str, texture: str) -> Bytes:
    palette = np.zeros((3, 3), dtype=np.uint8)
    palette[BODY] = COLORS[color]
    palette[PATTERN] = _DARK_PATTERN if texture == "outlined" else _LIGHT_PATTERN
    return palette


@cache
def _ink_ramp(plate: str) -> Bytes:
    paper, ink = (np.array(rgb, dtype=np.float64) for rgb in PLATES[plate])
    share = np.arange(256)[:, None] / 255
    return np.rint(paper + (ink - paper) * share).astype(np.uint8)


def _background(setting: str, choice: int) -> Bytes:
    choice, variant = divmod(choice, _VARIANTS)
    y, x = divmod(choice % (_MARGIN * _MARGIN), _MARGIN)
    return _backgrounds(setting)[variant, y : y + SIDE, x : x + SIDE].copy()


@cache
def _backgrounds(setting: str) -> Bytes:
    # RandomState: the one NumPy generator whose stream never changes between versions.
    generator = np.random.RandomState(list(SETTINGS).index(setting))
    side = SIDE + _MARGIN
    mean = np.array(SETTINGS[setting], dtype=np.float64)
    variants = []
    for _ in range(_VARIANTS):
        relief = _relief(setting, side, generator)
        shade = mean + generator.uniform(-8, 8, size=3)
        variants.append(np.clip(shade + relief[:, :, None], 0, 255).astype(np.uint8))
    return np.stack(variants)


def _relief(setting: str, side: int, generator: np.random.RandomState) -> NDArray[np.float64]:
    """Return how much lighter or darker each pixel is, float [side, side]."""
    y, x = np.mgrid[:side, :side]
    fine = generator.normal(size=(side, side))
    phase = generator.uniform(0, 40)
    match setting:
        case "grass":
            return 9 * _smooth(fine, 5, 1)
        case "sand":
            return 6 * fine
        case "snow":
            return 8 * _smooth(fine, 21, 21)
        case "water":
            return np.asarray(9 * np.sin((y + 3 * np.sin((x + phase) / 11)) / 4.2 + phase) + 2 * fine)
        case "brick":
            row = y // 14
            mortar = (y % 14 < 2) | ((x + 14 * (row % 2) + int(phase)) % 28 < 2)
            return np.asarray(np.where(mortar, 26, -4) + 3 * fine)
        case "wood":
            grain = np.sin((y + 2 * np.sin(x / 37 + phase)) / 2.6) * np.sin(y / 23 + phase)
            return np.asarray(8 * grain - 22 * ((y + int(phase)) % 42 < 2))
        case _:
            raise ValueError(f"no drawing for the setting {setting!r}")


def _smooth(values: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return the mean over height x width windows (wrapping round), scaled to unit variance."""
    for axis, length in ((0, height), (1, width)):
        values = sum(np.roll(values, shift, axis=axis) for shift in range(length)) / np.sqrt(length)
    return values


@cache
def _noise(level: int) -> NDArray[np.int8]:
    values = np.random.RandomState(2024).normal(size=_NOISE_VALUES)
    return np.clip(np.rint(values * level), -127, 127).astype(np.int8)
