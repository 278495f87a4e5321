"""The visual tokens of a batch picture by picture, for methods that reduce each picture by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.reduction import Kept, PrefillView


class Choice(NamedTuple):
    """What is to become of N pictures of P tokens each; `Kept` says the same of rows."""

    keep: Tensor
    """BoolTensor [N, P]."""
    states: Tensor | None = None
    """FloatTensor [N, P, hidden]."""
    into: Tensor | None = None
    """LongTensor [N, P]: the token of its picture that each one went into."""
    order: Tensor | None = None
    """LongTensor [N, P]: those that stay change places with each other, the lowest number first; None: they
    stand as they did.
    """


@dataclass(frozen=True, eq=False)
class Images:
    """Of a batch on entering a layer the N pictures that have P tokens each, in the order of the rows.

    A picture is what the tower saw by itself, an image or a tile, in raster order; newlines are in none.
    Tensors by picture are [N, P, ...]; those by row, as views have them, are [B, V, ...].
    """

    view: PrefillView
    index: Tensor
    """LongTensor [N, P]: where their tokens are in B x V."""

    @classmethod
    def of(cls, view: PrefillView) -> list["Images"]:
        """Return all pictures of a batch, those of one size together; fewer tokens first.

        Raises `DyrateError` for class tokens among the visual tokens.
        """
        expect_no_class_token(view.grid[view.valid])
        pictures = view.pictures.flatten()
        (index,) = (pictures >= 0).nonzero(as_tuple=True)
        row = index // view.present.shape[1]
        number = row * (pictures.max() + 1) + pictures[index]
        counts = [count for count in torch.bincount(number).tolist() if count]
        each = torch.split(index[number.argsort(stable=True)], counts)
        return [
            cls(view, torch.stack([own for own in each if len(own) == size])) for size in sorted({*counts})
        ]

    @property
    def size(self) -> int:
        """P."""
        return self.index.shape[1]

    def split(self, values: Tensor) -> Tensor:
        """Return what tokens hold by row as they hold it by picture."""
        return values.flatten(0, 1)[self.index]

    def by_picture(self, values: Tensor) -> Tensor:
        """Return what the pictures of rows hold, [B, most pictures of a row, ...], as [N, ...]."""
        first = self.index[:, 0]
        return values[first // self.view.present.shape[1], self.view.pictures.flatten()[first]]


def reduced(view: PrefillView, choose: Callable[[Images], Choice]) -> Tensor | Kept:
    """Answer with what `choose` says of the pictures of each size; newlines stay."""
    keep = view.present & (view.pictures < 0)
    numbers = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    into, order = numbers.masked_fill(~view.valid, -1), numbers.clone()
    states, merges, moves = view.states, False, False
    for images in Images.of(view):
        choice, index = choose(images), images.index
        place = index % keep.shape[1]
        keep.view(-1)[index] = choice.keep
        if choice.states is not None:
            states, merges = states.clone() if not merges else states, True
            states.view(-1, states.shape[-1])[index] = choice.states
        if choice.into is not None:
            into.view(-1)[index] = place.gather(1, choice.into)
        if choice.order is not None:
            last = torch.iinfo(torch.long).max
            rank = choice.order.masked_fill(~choice.keep, last).argsort(dim=1, stable=True).argsort(dim=1)
            left = place.masked_fill(~choice.keep, last).sort(dim=1).values
            order.view(-1)[index], moves = left.gather(1, rank), True
    return Kept(keep, states, into, order if moves else None) if merges else keep


def finite(view: PrefillView, name: str, values: Tensor) -> Tensor:
    """Return scores [B, V]; the generation fails, naming the row, if some are not finite."""
    view.expect_finite(name, values)
    return values.nan_to_num()


def expect_no_class_token(places: Tensor) -> None:
    """Raise `DyrateError` for a class token among visual tokens of these places, [n, 3]."""
    if (places[:, 1] < 0).any():
        raise DyrateError(
            "the class token is one of the visual tokens (vision_feature_select_strategy='full'); a "
            "method that reduces an image's patches needs a model without"
        )
