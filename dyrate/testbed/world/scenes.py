"""What a scene contains, and to which split it belongs."""

from hashlib import blake2b
from typing import Literal, NamedTuple

from dyrate.testbed.world.vocabulary import SIZE_OF

SIDE = 168
"""Pixels of an image's side."""

Split = Literal["train", "validation", "test"]
Domain = Literal["in-domain", "near-domain", "out-domain"]


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
    return "train" if residue < 8 else "validation" if residue == 8 else "test"
