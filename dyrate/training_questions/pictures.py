"""Whether a picture is one of many known ones: the same bytes, or the same picture at another size or
compression.

A difference hash without the hash. The picture becomes SIDE x SIDE grey cells, each the mean of its area; the
differences between neighbouring cells, to the right and downwards, are one vector, and two pictures are as
alike as the cosine between theirs. Size, compression, brightness and contrast leave it near 1: a cell
averages hundreds of pixels. The usual hash keeps only the signs of these differences, so that a clear sky,
where they are noise, votes as loudly as an edge; here it has no say, and a hundred thousand pictures are one
matrix product. Mirrored and cropped copies, and pictures of one grey, are only found by their bytes.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyrate.errors import DyrateError
from dyrate.files import digest

SIDE = 17
ALIKE = 0.9
"""From here on two pictures are one. Copies at half and a quarter of the size, and in JPEG at quality 30, are
above 0.97 (tests/training_questions); different scenes rarely come to 0.7.
"""


@dataclass(frozen=True)
class Likeness:
    """The known picture that is most like another one."""

    owner: str
    value: float
    """Cosine; 1 for the same bytes."""
    same_bytes: bool = False

    @property
    def one(self) -> bool:
        """Whether the two are one picture."""
        return self.same_bytes or self.value >= ALIKE


@dataclass
class KnownPictures:
    """Pictures that must not come again, each with whose it is."""

    _owners: dict[str, str] = field(default_factory=dict)
    """Of each digest, the first that had it; in the order of `_outlines`."""
    _outlines: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, data: bytes, owner: str, where: str) -> str:
        """Remember an encoded picture; return its digest. `DyrateError`, from `where`, for what is none."""
        found = digest(data)
        if found not in self._owners:
            outline = outline_of(data, where)
            self._owners[found] = owner
            self._outlines.append(outline)
        return found

    def nearest(self, data: bytes, where: str) -> Likeness:
        """Return the most alike of the pictures, of which there must be one; `DyrateError` as for `add`."""
        if (owner := self._owners.get(digest(data))) is not None:
            return Likeness(owner, 1.0, same_bytes=True)
        cosines = self._matrix @ outline_of(data, where)
        best = int(cosines.argmax())
        return Likeness(list(self._owners.values())[best], float(cosines[best]))

    @cached_property
    def _matrix(self) -> NDArray[np.float32]:
        return np.stack(self._outlines)


def outline_of(data: bytes, where: str) -> NDArray[np.float32]:
    """Return the differences between neighbouring cells of an encoded picture, as a vector of length 1; 0 for
    a picture of one grey. Raises `DyrateError`, from `where`, for what is no picture.
    """
    from PIL import Image

    try:
        image: Any = Image.open(io.BytesIO(data))
        image.draft("L", (8 * SIDE, 8 * SIDE))  # JPEG: no more of it is decoded than that
        cells = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DyrateError(f"{where}: the image cannot be decoded ({error})") from None
    differences = np.concatenate([np.diff(cells, axis=axis).ravel() for axis in (0, 1)])
    length = float(np.linalg.norm(differences))
    return np.asarray(differences / length if length else differences, np.float32)


def pictures_of(loaded: Any) -> Iterator[tuple[int, bytes]]:
    """Yield the encoded pictures of a benchmark's split (`harness_tasks.LoadedTask`), each with its row."""
    from datasets import Image

    columns = loaded.benchmark.images
    rows = loaded.task.dataset[loaded.task.config.test_split].select_columns([*columns])
    for column in columns:
        rows = rows.cast_column(column, Image(decode=False))
    for row, pictures in enumerate(rows):
        yield from ((row, picture["bytes"]) for picture in pictures.values() if picture is not None)
