"""The pixels of every thing and sign as small cached arrays; places and colours are left to others."""

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

Bytes = NDArray[np.uint8]

CLEAR, BODY, PATTERN = 0, 1, 2
"""Values of a sprite's pixels: not the thing, its colour, its pattern's second colour."""

FONT_SIZES = (14, 16, 18)
"""Sizes in points of Pillow's bundled font; its capitals are 10, 11 and 13 pixels high."""

SIGN_MARGIN = (5, 4)
"""Pixels of plate left and right of, and above and below the letters."""


def _inside(shape: str, size: int) -> NDArray[np.bool_]:
    centre = (np.arange(size) + 0.5) / size * 2 - 1
    u, v = centre[None, :], centre[:, None]
    r = np.hypot(u, v)
    match shape:
        case "circle":
            inside = r <= 1
        case "square":
            inside = np.maximum(abs(u), abs(v)) <= 0.9
        case "triangle":
            inside = (v <= 0.9) & (abs(u) * 1.9 <= v + 1)
        case "diamond":
            inside = abs(u) * 1.3 + abs(v) <= 1
        case "star":
            angles = np.pi / 2 + 2 * np.pi * np.arange(5) / 5
            edges = [u * np.cos(a) + (v - 0.05) * np.sin(a) <= 0.36 for a in angles]
            inside = np.sum(edges, axis=0) >= 4
        case "heart":
            x, y = u * 1.2, 0.22 - v * 1.2
            inside = (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0
        case "cross":
            inside = (np.minimum(abs(u), abs(v)) <= 0.34) & (np.maximum(abs(u), abs(v)) <= 0.97)
        case "ring":
            inside = (r <= 1) & (r >= 0.5)
        case "moon":
            inside = (r <= 1) & (np.hypot(u - 0.5, v) >= 0.82)
        case "hexagon":
            inside = np.maximum(abs(v), 0.5 * abs(v) + 0.866 * abs(u)) <= 0.87
        case _:
            raise ValueError(f"no drawing for the shape {shape!r}")
    return np.asarray(np.broadcast_to(inside, (size, size)))


def _eroded(inside: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(inside, by), (2 * by + 1, 2 * by + 1))
    return np.asarray(windows.all(axis=(2, 3)))


def _pattern(texture: str, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    size = len(inside)
    y, x = np.mgrid[:size, :size]
    match texture:
        case "plain":
            return np.zeros_like(inside)
        case "striped":
            return np.asarray((x + y) % 7 < 3)
        case "dotted":
            return np.asarray((x % 6 < 2) & (y % 6 < 2))
        case "checkered":
            return np.asarray((x // 4 + y // 4) % 2 == 0)
        case "outlined":
            return ~_eroded(inside, 2)
        case _:
            raise ValueError(f"no drawing for the texture {texture!r}")


@cache
def sprite(shape: str, size: int, texture: str) -> Bytes:
    """Return a thing's pixels, uint8 [size, size] of CLEAR, BODY and PATTERN."""
    inside = _inside(shape, size)
    pixels = np.where(inside, np.where(_pattern(texture, inside), PATTERN, BODY), CLEAR).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


@cache
def silhouette(shape: str, size: int) -> tuple[NDArray[np.bool_], int]:
    """Return where a thing covers what lies under it, bool [size, size], and the number of its pixels."""
    inside = sprite(shape, size, "plain") != CLEAR
    return inside, int(inside.sum())


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType, so its bundled font cannot be drawn large enough")
    return font


@lru_cache(maxsize=8192)
def lettering(text: str, font_size: int) -> Bytes:
    """Return a sign's ink in capitals, uint8 [height, width]: 0 is plate, 255 is letter."""
    mask = _font(font_size).getmask(text.upper(), mode="L")
    width, height = mask.size
    ink = np.frombuffer(bytes(mask), dtype=np.uint8).reshape(height, width)
    across, along = SIGN_MARGIN
    plate = np.pad(ink, ((along, along), (across, across)))
    plate.flags.writeable = False
    return plate
