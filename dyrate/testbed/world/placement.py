"""Where things and signs find room, and how much of each stays visible."""

import numpy as np
from numpy.typing import NDArray

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.scenes import SIDE, Sign, Thing
from dyrate.testbed.world.sprites import FONT_SIZES, lettering, silhouette

MIN_VISIBLE = 0.65
"""Share of a thing's pixels that later things leave uncovered."""

_SIGN_ATTEMPTS = 8
_THING_ATTEMPTS = 14
_GAP = 2
"""Pixels between things that do not cover one another."""


class Placement:
    """What is placed so far: signs, then things, their boxes, and the pixels that each thing still shows."""

    def __init__(self) -> None:
        self.signs: list[Sign] = []
        self.things: list[Thing] = []
        self._boxes: list[tuple[int, int, int, int]] = []
        self._shown: list[NDArray[np.bool_]] = []

    def add_sign(self, draw: Draw, plate: str, text: str) -> None:
        """Find a free place for a sign; without one, leave it out. Signs come before things."""
        font_size = draw.pick(FONT_SIZES)
        height, width = lettering(text, font_size).shape
        for _ in range(_SIGN_ATTEMPTS):
            x, y = draw.between(2, SIDE - 2 - width), draw.between(2, SIDE - 2 - height)
            if self._is_free(x, y, width, height):
                self._boxes.append((x, y, x + width, y + height))
                self.signs.append(Sign(text, plate, font_size, x, y))
                return

    def add_thing(self, draw: Draw, thing: Thing, may_cover: bool) -> None:
        """Find a place for the thing; without one, after some attempts, leave it out."""
        width = thing.width
        for _ in range(_THING_ATTEMPTS):
            x, y = draw.between(1, SIDE - 1 - width), draw.between(1, SIDE - 1 - width)
            shown: dict[int, NDArray[np.bool_]] | None = {}
            if not self._is_free(x, y, width, width):
                shown = self._shown_under(thing, x, y) if may_cover else None
            if shown is None:
                continue
            for i, pixels in shown.items():
                self._shown[i] = pixels
            self._boxes.append((x, y, x + width, y + width))
            self.things.append(thing._replace(x=x + width // 2, y=y + width // 2))
            self._shown.append(silhouette(thing.shape, width)[0])
            return

    def visible(self) -> tuple[float, ...]:
        """Return the share of each thing's pixels that nothing covers."""
        return tuple(
            int(np.count_nonzero(shown)) / silhouette(thing.shape, thing.width)[1]
            for thing, shown in zip(self.things, self._shown, strict=True)
        )

    def _is_free(self, x: int, y: int, width: int, height: int) -> bool:
        right, bottom = x + width + _GAP, y + height + _GAP
        x, y = x - _GAP, y - _GAP
        return all(r <= x or left >= right or b <= y or top >= bottom for left, top, r, b in self._boxes)

    def _shown_under(self, thing: Thing, x: int, y: int) -> dict[int, NDArray[np.bool_]] | None:
        """Return what earlier things would still show under this one at x, y; None if too little."""
        inside, _ = silhouette(thing.shape, thing.width)
        right, bottom = x + thing.width, y + thing.width
        covered = {}
        for index, (left, top, r, b) in enumerate(self._boxes):
            x0, y0, x1, y1 = max(x, left), max(y, top), min(right, r), min(bottom, b)
            if x0 >= x1 or y0 >= y1:
                continue
            i = index - len(self.signs)
            if i < 0 or self.things[i].color == thing.color:
                return None  # signs stay readable, and one colour on itself would hide the outline
            shown = self._shown[i].copy()
            shown[y0 - top : y1 - top, x0 - left : x1 - left] &= ~inside[y0 - y : y1 - y, x0 - x : x1 - x]
            _, area = silhouette(self.things[i].shape, self.things[i].width)
            if np.count_nonzero(shown) < MIN_VISIBLE * area:
                return None
            covered[i] = shown
        return covered
