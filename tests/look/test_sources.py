"""Images are what an evaluation makes of the same bytes, and what is none is one clear error."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as Column
from PIL import Image

from dyrate.errors import DyrateError
from dyrate.look.looker import Looker
from dyrate.look.sources import photo, scene, scene_of

SCENE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return saved(SCENE, "JPEG", exif=exif)


def animated() -> bytes:
    others = [SCENE.rotate(90 * turn) for turn in (1, 2)]
    return saved(SCENE, "GIF", save_all=True, append_images=others)


READ = {
    "animated.gif": animated(),
    "cmyk.jpg": saved(SCENE.convert("CMYK"), "JPEG"),
    "grey.png": saved(SCENE.convert("L"), "PNG"),
    "palette.png": saved(SCENE.quantize(7), "PNG", transparency=2),
    "see-through.png": saved(SCENE.convert("RGBA"), "PNG"),
    "turned.jpg": turned(),
}


@pytest.mark.parametrize("name", READ)
def test_a_photo_is_what_an_evaluation_reads(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(READ[name])
    rows = Dataset.from_dict({"image": [{"bytes": READ[name], "path": None}]}).cast_column("image", Column())
    expected = rows[0]["image"].convert("RGB")  # as the tasks' doc_to_visual does

    found = photo(tmp_path / name)

    assert (found.mode, found.size) == ("RGB", expected.size)
    assert found.tobytes() == expected.tobytes()
    assert found.size == ((20, 30) if name == "turned.jpg" else (30, 20))


REFUSED = {
    "missing.png": (None, "missing.png: no such file"),
    "folder": ("folder", "folder: cannot be read: Is a directory"),
    "text.jpg": (b"not an image", r"text.jpg: its 12 bytes are no image of a known format$"),
    "empty.png": (b"", "empty.png: its 0 bytes are no image"),
    "cut.png": (saved(SCENE, "PNG")[:700], r"cut.png: the image cannot be decoded \("),
    "cut.jpg": (saved(SCENE, "JPEG")[:500], r"cut.jpg: the image cannot be decoded \("),
    "deep.png": (
        saved(Image.fromarray(np.full((4, 4), 40000, np.uint16)), "PNG"),
        "more than 8 bits per color",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_one_clear_error(name: str, tmp_path: Path) -> None:
    content, refusal = REFUSED[name]
    if content == "folder":
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DyrateError, match=refusal) as caught:
        photo(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_scene_is_the_benchmarks_row_with_its_question_and_answer(looker: Looker) -> None:
    found = scene(looker.model, "gqa:2")
    assert found.text.endswith("Answer the question using a single word or phrase.")
    assert found.text in found.question.prompt
    assert len(found.references) == 1
    assert found.question.images[0].size == (168, 168)
    again = scene(looker.model, "gqa:2", "What is in the picture?")
    assert again.question.images[0].tobytes() == found.question.images[0].tobytes()
    assert (again.text, again.references) == ("What is in the picture?", [])


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("nocap:3", "unknown benchmark 'nocap'; did you mean 'nocaps'?"),
        ("nocaps:three", "'three' is no row"),
        ("nocaps:-1", "'-1' is no row"),
        ("nocaps:1000000", "'1000000' is no row"),
    ],
)
def test_a_scene_that_is_not_there_is_refused(name: str, refusal: str) -> None:
    with pytest.raises(DyrateError, match="--sample") as caught:
        scene_of(name)
    assert refusal in str(caught.value)


def test_a_benchmark_alone_means_its_first_row() -> None:
    assert scene_of("gqa") == ("gqa", 0)
