"""Whether two pictures are one: copies are, neighbours are not."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from dyrate.errors import DyrateError
from dyrate.training_questions.pictures import ALIKE, KnownPictures, outline_of
from tests.training_questions.cauldron import encoded, scenes

SCENES = scenes(40)
Change = Callable[[Image.Image], bytes]


def smaller(image: Image.Image, share: float) -> Image.Image:
    size = round(image.width * share), round(image.height * share)
    return image.resize(size, Image.Resampling.LANCZOS)


def rearranged(image: Image.Image) -> Image.Image:
    """The same things in other places: left and right halves exchanged."""
    return Image.fromarray(np.roll(np.asarray(image), image.width // 2, axis=1))


@pytest.fixture(scope="module")
def known() -> KnownPictures:
    found = KnownPictures()
    for number, image in enumerate(SCENES):
        found.add(encoded(image, "PNG"), str(number), "here")
    return found


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: encoded(image, quality=75), id="JPEG"),
        pytest.param(lambda image: encoded(image, quality=40), id="coarse JPEG"),
        pytest.param(lambda image: encoded(image, "WEBP", quality=60), id="WebP"),
        pytest.param(lambda image: encoded(smaller(image, 0.5), quality=85), id="half"),
        pytest.param(lambda image: encoded(smaller(image, 2.5), quality=85), id="larger"),
        pytest.param(lambda image: encoded(image.resize((200, 150)), quality=85), id="another shape"),
        pytest.param(lambda image: encoded(image.convert("L"), "PNG"), id="grey"),
        pytest.param(lambda image: encoded(image.point(lambda v: int(0.8 * v + 20))), id="less contrast"),
    ],
)
def test_a_copy_is_the_same_picture(known: KnownPictures, change: Change) -> None:
    found = [known.nearest(change(image), "there") for image in SCENES]

    assert [likeness.owner for likeness in found] == [str(number) for number in range(len(SCENES))]
    assert all(likeness.one and not likeness.same_bytes for likeness in found), found


def test_the_same_bytes_are_told_apart_from_the_same_picture(known: KnownPictures) -> None:
    found = known.nearest(encoded(SCENES[3], "PNG"), "there")

    assert (found.owner, found.value, found.same_bytes) == ("3", 1.0, True)


def test_other_scenes_are_not(known: KnownPictures) -> None:
    found = [known.nearest(encoded(image), "there") for image in scenes(100, seed=99)]

    assert max(likeness.value for likeness in found) < ALIKE - 0.2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(rearranged, id="rearranged"),
        pytest.param(ImageOps.mirror, id="mirrored"),
        pytest.param(
            lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 25, 0, 1, 0)),
            id="from elsewhere",
        ),
    ],
)
def test_what_only_resembles_it_is_not(
    known: KnownPictures, change: Callable[[Image.Image], Image.Image]
) -> None:
    found = [known.nearest(encoded(change(image)), "there") for image in SCENES]

    assert max(likeness.value for likeness in found) < ALIKE, found


def test_one_grey_is_like_nothing_but_its_bytes(known: KnownPictures) -> None:
    grey = [Image.new("RGB", (64, 64), (shade, shade, shade)) for shade in (90, 91)]
    known.add(encoded(grey[0], "PNG"), "grey", "here")

    assert known.nearest(encoded(grey[0], "PNG"), "there").one
    assert not known.nearest(encoded(grey[1], "PNG"), "there").one
    assert np.all(outline_of(encoded(grey[1], "PNG"), "there") == 0)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(DyrateError, match="gqa, row 7: the image cannot be decoded"):
        KnownPictures().add(b"no picture", "gqa", "gqa, row 7")
