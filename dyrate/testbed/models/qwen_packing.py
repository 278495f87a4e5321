"""Packs images of several sizes, with their questions, as Qwen2.5-VL wants them.

A visual token is 2 x 2 patches, so that an image of another size has another number of them, and stands in
the prompt by time, row and column. What follows it stands behind the larger of its two sides.

The sizes in a batch are the same at every step: row i has the size i x n / B of the n there are. So every
batch has the same number of patches and the same bounds between images: nothing is compiled twice, and all
images of one size, and all windows, are attended within at once. A window is a whole number of tokens in all
sizes, which spares partial ones.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby, product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from dyrate.errors import DyrateError
from dyrate.testbed.models.packing import PackedBatch, Packer
from dyrate.testbed.models.tokenizer import CHATML
from dyrate.testbed.world.examples import DialogueTurn, Example

PATCH, MERGE, TIMES = 7, 2, 2
TOKEN = MERGE * PATCH  # pixels of a visual token's side
WINDOW = 4 * PATCH  # pixels of a window's side
SIDES = (140, 168, 196)  # of images in training: five, six or seven windows, ten to fourteen tokens
SIZES = tuple(product(SIDES, SIDES))  # heights and widths; of all, 144 tokens on average
_TOO_CLOSE = "spacings: visual tokens with positions of three axes cannot stand closer than 1"

Grid = tuple[int, int]
"""Rows and columns of an image's visual tokens."""


class Layout(NamedTuple):
    """Where the patches of a batch's images belong, as they come: by window, in the order of the images."""

    runs: tuple[tuple[int, int], ...]  # (images, patches of each), one after another
    windows: Tensor  # int64 [tokens]: the place, in the prompt, of each token of the tower
    places: Tensor  # int64 [patches, 2]: row and column of each patch

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> "Layout":
        """Return the layout of images of these grids."""
        patches = torch.tensor([(1, MERGE * rows, MERGE * columns) for rows, columns in grids])
        windows, _ = get_vision_window_index(patches, MERGE, WINDOW, PATCH)
        places = get_vision_position_ids(patches, MERGE).unflatten(0, (-1, MERGE**2))[windows].flatten(0, 1)
        runs = ((len(list(same)), grid[0] * grid[1] * MERGE**2) for grid, same in groupby(grids))
        return cls(tuple(runs), windows, places)


def sizes_of(rows: int) -> list[tuple[int, int]]:
    """Return heights and widths of the images of a batch, in the order of its rows."""
    return [SIZES[row * len(SIZES) // rows] for row in range(rows)]


def grids_of(rows: int) -> list[Grid]:
    """Return the grids of these images."""
    return [(height // TOKEN, width // TOKEN) for height, width in sizes_of(rows)]


class MergedPacker(Packer):
    """Turns examples into batches of images of different sizes; `images` are patches, uint8 [patches, 147],
    by window.
    """

    dialogue = CHATML

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        super().__init__(tokenizer, length)
        self._layout = lru_cache(maxsize=8)(lambda rows: Layout.of(grids_of(rows)))

    def pack(self, example: Example, spacing: float = 1.0) -> tuple[NDArray[np.int64], list[DialogueTurn]]:
        """Do what a `Packer` does, for an image of the world's own size; positions are those in time."""
        if spacing != 1.0:
            raise DyrateError(_TOO_CLOSE)
        side = example.image.shape[0] // TOKEN
        return self._row(example, np.zeros(side * side, dtype=np.int64), side)

    def batch(
        self, examples: Sequence[Example], spacings: Iterable[float] | None = None
    ) -> tuple[PackedBatch, list[list[DialogueTurn]]]:
        """Pack examples into one batch, each in its row's size; positions are int64 [3, B, S]."""
        if any(spacing != 1.0 for spacing in spacings or ()):
            raise DyrateError(_TOO_CLOSE)
        sizes, grids, layout = sizes_of(len(examples)), grids_of(len(examples)), self._layout(len(examples))
        packed = [
            self._row(example, np.zeros(rows * columns, dtype=np.int64), max(rows, columns))
            for example, (rows, columns) in zip(examples, grids, strict=True)
        ]
        patches = [patches_of(example.image, size) for example, size in zip(examples, sizes, strict=True)]
        by_window = np.concatenate(patches)[layout.windows.numpy()]
        batch, placed = self._batch(examples, packed, by_window.reshape(-1, by_window.shape[-1]))
        positions, first = batch.position_ids.repeat(3, 1, 1), self._first_visual_token
        for row, (rows, columns) in enumerate(grids):
            of_image = positions[:, row, first : first + rows * columns]
            of_image[1] += torch.arange(rows).repeat_interleave(columns)
            of_image[2] += torch.arange(columns).repeat(rows)
        return batch._replace(position_ids=positions), placed


def patches_of(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image, resized to (height, width), as uint8 [tokens, 4, channels x 7 x 7]."""
    height, width = size
    if image.shape[:2] != size:
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        image = np.asarray(resized)
    rows, columns = height // TOKEN, width // TOKEN
    parts = image.reshape(rows, MERGE, PATCH, columns, MERGE, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return parts.reshape(rows * columns, MERGE**2, -1)
