"""What is true of one scene: which things share a description, and how to refer to one of them alone."""

from collections.abc import Sequence
from typing import NamedTuple

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.scenes import Scene, Sign, Thing
from dyrate.testbed.world.vocabulary import SIZE_NAMES, TEXTURES, plural, with_article


class Description(NamedTuple):
    """Attributes that a thing may or may not have; None leaves the attribute open."""

    shape: str | None = None
    color: str | None = None
    texture: str | None = None
    size: str | None = None

    @property
    def noun(self) -> str:
        """Return the singular noun phrase without article: "large red star", "striped thing"."""
        words = (self.size, self.texture, self.color, self.shape or "thing")
        return " ".join(word for word in words if word)

    @property
    def nouns(self) -> str:
        """Return the plural noun phrase."""
        return plural(self.noun)

    @property
    def a_noun(self) -> str:
        """Return the noun phrase with its indefinite article."""
        return with_article(self.noun)

    @property
    def form(self) -> tuple[str, ...]:
        """Return the names of the attributes that the description tells."""
        return tuple(name for name, value in zip(self._fields, self, strict=True) if value)


class Facts:
    """An index of a scene: descriptions to the things that fit them, and the signs by kind."""

    __slots__ = ("groups", "keys", "numbers", "scene", "words")

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.groups: dict[Description, list[Thing]] = {}
        self.keys: dict[Thing, list[Description]] = {}
        for thing in scene.things:
            shape, color, texture, size = thing.shape, thing.color, thing.texture, thing.size
            keys = [
                Description(shape),
                Description(shape, color),
                Description(shape, None, texture),
                Description(shape, None, None, size),
                Description(None, color),
                Description(None, color, texture),
                Description(None, color, None, size),
                Description(None, None, texture),
            ]
            self.keys[thing] = keys
            for key in keys:
                self.groups.setdefault(key, []).append(thing)
        self.words = [sign for sign in scene.signs if not sign.is_number]
        self.numbers = [sign for sign in scene.signs if sign.is_number]

    def counts(self, form: tuple[str, ...]) -> dict[Description, int]:
        """Return the descriptions of the form that fit something, with the number of things they fit."""
        return {key: len(things) for key, things in self.groups.items() if key.form == form}

    def count(self, description: Description) -> int:
        """Return how many things fit one of the indexed descriptions."""
        return len(self.groups.get(description, ()))

    def referable(self, draw: Draw, hide: str = "") -> tuple[Thing, str] | None:
        """Return a random thing with a phrase ("the red star") for it alone that leaves `hide` open.

        A hidden texture or size is each as likely as the others, however rare in the scene; None when no
        thing that has it can be referred to. Small things show no texture.
        """
        things: Sequence[Thing] = self.scene.things
        if hide == "texture":
            texture = draw.pick(TEXTURES)
            things = [thing for thing in things if thing.texture == texture and thing.size != "small"]
        elif hide == "size":
            size = draw.pick(SIZE_NAMES)
            things = [thing for thing in things if thing.size == size]
        for thing in draw.shuffled(things):
            unique = [
                key
                for key in self.keys[thing]
                if len(self.groups[key]) == 1
                and not (hide and getattr(key, hide))
                and key[:2] != (None, None)
            ]
            if unique:
                return thing, f"the {draw.pick(unique).noun}"
        return None

    def sign(self, draw: Draw, number: bool) -> tuple[Sign, str] | None:
        """Return a random sign with a word (or number) and its reference, None when there is none."""
        signs = self.numbers if number else self.words
        if not signs:
            return None
        sign = draw.pick(signs)
        return sign, "the sign" if len(self.scene.signs) == 1 else f"the {sign.plate} sign"
