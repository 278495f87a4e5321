"""Images that a model sees in tiles or in merged patches: what is drawn of them, and what is counted."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dyrate.families import family_of
from dyrate.look.looker import Looker
from dyrate.look.picture import pictured
from tests.evaluation.family_checkpoints import family_checkpoint
from tests.tiny_families import TINY


@pytest.mark.parametrize("name", TINY)
def test_tokens_of_the_finest_picture_are_drawn(name: str) -> None:
    """Each place once, in raster order; of InternVL's tiles the last is the image."""
    subject = TINY[name].subject
    row, pictures = subject.rows[0], subject.pictures[0]
    photo, tokens = Image.new("RGB", (1000, 500)), subject.visual[0]
    found = pictured(family_of(subject.model), row, [photo], tokens, None)
    rows, columns, newlines = pictures[-1]
    assert (found["rows"], found["columns"]) == (rows, columns)
    assert found["places"] is not None
    assert len(found["places"]) == tokens
    drawn = [place for place in found["places"] if place != [-1, -1]]
    assert drawn == [[down, right] for down in range(rows) for right in range(columns)]
    first = found["places"].index([0, 0])
    assert first == tokens - rows * columns - newlines
    assert ("note" in found) == (len(drawn) < tokens)


def test_of_several_images_none_is_drawn() -> None:
    subject = TINY["qwen3_vl"].subject
    photos = [Image.new("RGB", (10, 10)), Image.new("RGB", (20, 20))]
    found = pictured(family_of(subject.model), subject.rows[1], photos, subject.visual[1], None)
    assert found["places"] is None
    assert "The first of 2 images" in found["note"]


@pytest.mark.parametrize("name", TINY)
def test_a_checkpoint_looks_at_an_image(name: str, tmp_path: Path) -> None:
    """By its own processor."""
    methods: list[Any] = [{"name": "fastv", "layer": 2}]
    photo = Image.effect_noise((24, 40), 60).convert("RGB")
    looker = Looker(str(family_checkpoint(name, tmp_path)), device="cpu")
    look = looker.look(photo, "What is this?", methods, 3)
    whole, reduced = look["answers"]
    assert whole["sets"] == [list(range(look["visual_tokens"]))]
    assert len(reduced["sets"]) > 1
    places = look["picture"]["places"]
    assert len(places) == look["visual_tokens"]
    drawn = [place for place in places if place != [-1, -1]]
    rows, columns = look["picture"]["rows"], look["picture"]["columns"]
    assert drawn == [[down, right] for down in range(rows) for right in range(columns)]
    assert (rows > columns) == (not name.startswith("internvl"))  # whose tiles are square
