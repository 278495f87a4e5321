"""What an item of a benchmark is, and what the makers of items share."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from dyrate.testbed.benchmarks.annotators import UNANIMOUS, Crowd
from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.examples import Kinds
from dyrate.testbed.world.question_kinds import ANSWERS, Question, ask
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.render import render
from dyrate.testbed.world.sampling import DEFAULT, Difficulty, sample_scene
from dyrate.testbed.world.scenes import Domain, Scene


class Item(NamedTuple):
    """One row of a benchmark, the perfect answer to it, its kind of question and its scene's domain.

    The row is as the parquet file holds it; an image is a dictionary of its PNG bytes and no path.
    """

    row: dict[str, Any]
    answer: str
    kind: str
    domain: Domain = "in-domain"


@dataclass(frozen=True)
class BenchmarkSpec:
    """How a benchmark's items are made: kinds of question with their weights, scenes' difficulty, annotators.

    `maker` returns a group of items that are never separated, from the spec, choices and the group's number.
    """

    maker: Callable[["BenchmarkSpec", Draw, int], list[Item]]
    kinds: Kinds = field(default_factory=dict)
    difficulty: Difficulty = DEFAULT
    crowd: Crowd = UNANIMOUS


def asked(spec: BenchmarkSpec, draw: Draw, difficulty: Difficulty | None = None) -> tuple[Scene, Question]:
    """Return a scene and a question of one of the spec's kinds, all answers of a kind equally likely."""
    kind = draw.weighted(spec.kinds)
    answer = draw.pick(ANSWERS[kind]) if kind in ANSWERS else None
    while True:
        scene = sample_scene(draw, "test", difficulty or spec.difficulty)
        question = ask(kind, Facts(scene), draw, answer)
        if question:
            return scene, question


def photo_of(scene: Scene) -> dict[str, Any]:
    """Return the scene's photo as a PNG."""
    return _png(Image.fromarray(render(scene)))


def resized(item: Item, sides: Sequence[int]) -> Item:
    """Return an item whose image is a square of one of the sides, the same for the same image; without any,
    the item as it is.

    A square, so that a processor that cuts the middle out of an image, as LLaVA's does, loses nothing.
    """
    if not sides:
        return item
    photo = item.row["image"]["bytes"]
    side = Draw("side", hashlib.sha256(photo).hexdigest()).pick(sides)
    image = Image.open(io.BytesIO(photo)).resize((side, side), Image.Resampling.BICUBIC)
    told = {name: side for name in _TOLD if name in item.row}
    return item._replace(row={**item.row, **told, "image": _png(image)})


_TOLD = ("image_width", "image_height", "width", "height")
"""Columns that tell an image's size."""


def _png(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4)
    return {"bytes": buffer.getvalue(), "path": None}
