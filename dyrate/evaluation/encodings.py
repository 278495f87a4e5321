"""What the vision encoder made of a batch of images, for the next method that is asked about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from dyrate.families import family_of

ROOM = 512 * 2**20
"""Bytes that are kept; what comes after that is encoded anew. The methods of a sweep come by the same batches
in the same order, so what is kept first is as good as anything.
"""


@contextmanager
def kept_encodings(model: Any, room: int = ROOM) -> Iterator[None]:
    """Let the model's vision encoder run once for each batch of images, on a CPU; on a GPU it is no matter.

    Whole batches only: in another batch the same image's sums may be rounded otherwise. Hooks around the
    encoder see every call.
    """
    tower = family_of(model).vision_tower
    plain, left = tower.forward, room
    kept: dict[tuple[Any, ...], Any] = {}

    def forward(pixel_values: Tensor, **kwargs: Any) -> Any:
        nonlocal left
        if pixel_values.device.type != "cpu":
            return plain(pixel_values, **kwargs)
        pixels = pixel_values.contiguous().view(torch.uint8).numpy().tobytes()
        call = sha256(pixels).digest(), pixel_values.dtype, pixel_values.shape, repr(sorted(kwargs.items()))
        if call in kept:
            return _copy(kept[call])
        made = plain(pixel_values, **kwargs)
        size = _nbytes(made.to_tuple())
        if size <= left:
            left -= size
            kept[call] = _copy(made)
        return made

    tower.forward = forward
    try:
        yield
    finally:
        del tower.forward


def _copy(made: Any) -> Any:
    """Another object with the same tensors: whoever is given one adds to it."""
    return type(made)(**made)


def _nbytes(made: Any) -> int:
    if isinstance(made, Tensor):
        return made.nbytes
    return sum(map(_nbytes, made)) if isinstance(made, tuple) else 0
