"""What several methods compute alike on one batch of prompts, computed once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dyrate.families import family_of
from dyrate.hooks import stand_in


class Prefix:
    """What parts of a model on a CPU made of the first input that they got, for all who bring the same one.

    These parts are functions of their input: the vision tower, and in language layers all but the attention
    itself, which runs each time, since it fills the cache and is looked at. Whether an input is the same is
    seen by its numbers, not by what a method says of itself.
    """

    def __init__(self, model: Any) -> None:
        self._family = family_of(model)
        self._made: dict[nn.Module, tuple[Any, Any]] = {}

    @property
    def depth(self) -> int:
        """Language layers of the model."""
        return len(self._family.layers)

    @contextmanager
    def shared(self, layers: int) -> Iterator[None]:
        """Share the work of the vision tower and of so many language layers, until the block is left. Hooks
        around a part see every call, those inside it only the first one.
        """
        parts = [part for layer in self._family.layers[:layers] for part in _functions(layer)]
        with ExitStack() as undo:
            undo.callback(self.forget)
            for part in (self._family.encoder, *parts):
                stand_in(part, "forward", partial(self._forward, part, part.forward), undo)
            yield

    def forget(self) -> None:
        """Begin another batch."""
        self._made.clear()

    def _forward(self, part: nn.Module, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if part is self._family.encoder and _changed(part):
            return plain(*args, **kwargs)
        first = self._made.get(part)
        if first is not None and _same(first[0], (args, kwargs)):
            return _copy(first[1])
        made = plain(*args, **kwargs)
        if first is None:
            self._made[part] = (args, kwargs), _copy(made)
        return made


def _changed(tower: nn.Module) -> bool:
    """Whether a method has put something else into the tower's layers, so that its input does not say all."""
    return any("forward" in vars(part) for part in tower.modules() if part is not tower)


def _functions(layer: nn.Module) -> Iterator[nn.Module]:
    for part in layer.children():
        if part is layer.self_attn:
            yield from part.children()
        else:
            yield part


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.dtype == other.dtype and torch.equal(one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _copy(made: Any) -> Any:
    """Another object with the same tensors, of an output with several: whoever is given one adds to it."""
    return made if isinstance(made, Tensor) else type(made)(**made)
