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


class Encodings:
    """Outputs of one model's vision encoder on a CPU, by the images and the way that they were encoded.

    Whole batches only: in another batch the same image's sums may be rounded otherwise.
    """

    def __init__(self, model: Any, room: int = ROOM) -> None:
        self._tower = family_of(model).vision_tower
        self._plain = self._tower.forward
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._left = room

    @contextmanager
    def reused(self) -> Iterator[None]:
        """Let the encoder run once for each batch. Hooks around it see every call, those inside it only the
        first one.
        """
        self._tower.forward = self._forward
        try:
            yield
        finally:
            del self._tower.forward

    def _forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        if pixel_values.device.type != "cpu" or any(isinstance(value, Tensor) for value in kwargs.values()):
            return self._plain(pixel_values, **kwargs)
        pixels = pixel_values.contiguous().view(torch.uint8).numpy().tobytes()
        call = sha256(pixels).digest(), pixel_values.dtype, pixel_values.shape, repr(sorted(kwargs.items()))
        if call in self._kept:
            return _copy(self._kept[call])
        made = self._plain(pixel_values, **kwargs)
        size = _nbytes(made.to_tuple())
        if size <= self._left:
            self._left -= size
            self._kept[call] = _copy(made)
        return made


def _copy(made: Any) -> Any:
    """Another object with the same tensors: whoever is given one adds to it."""
    return type(made)(**made)


def _nbytes(made: Any) -> int:
    if isinstance(made, Tensor):
        return made.nbytes
    return sum(map(_nbytes, made)) if isinstance(made, tuple) else 0
