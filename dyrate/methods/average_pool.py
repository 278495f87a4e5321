"""Control by averaging: squares of visual tokens become one token each."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from dyrate.errors import DyrateError
from dyrate.methods.images import Images
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class AveragePool(ReductionMethod):
    """Average `size` x `size` squares of each image's projected features, without a choice of tokens.

    On entering layer 0, in the image's order, at positions without gaps: of 24 x 24 tokens, 144 are left with
    `size` 2 and 64 with 3. A size that does not divide the grid is refused. In `run.kept` and `run.merged` a
    square goes by its token behind the middle.
    """

    name: ClassVar[str] = "average_pool"
    title: ClassVar[str] = "Average pooling"
    examples = ({"size": 2}, {"size": 4})
    keeps_everything = ({"size": 1},)

    size: int = hyperparameter(
        "side of the squares, in tokens; it must divide the grid's",
        default=2,
        minimum=1,
        label=lambda size: f"{size} x {size}",
    )

    def needs(self, depth: int) -> Needs:
        """Positions without gaps: the prompt is simply shorter."""
        return Needs(prefill=(0,), positions="contiguous")

    def prefill(self, view: PrefillView) -> Kept:
        """Let one token of each square hold the mean of all."""
        images, side = Images.of(view), self.size
        _, row, column = images.split(view.grid).unbind(dim=-1)
        rows, columns = int(row.max()) + 1, int(column.max()) + 1
        if rows % side or columns % side:
            raise DyrateError(
                f"{self}: {side} x {side} tokens do not divide the image's grid of {rows} x {columns}; "
                f"size must divide {rows}" + (f" and {columns}" if columns != rows else "")
            )
        square = row // side * (columns // side) + column // side
        states = images.split(view.states).float()
        members = square.argsort(dim=1, stable=True)[..., None]
        by_square = torch.take_along_dim(states, members, dim=1)
        mean = by_square.view(len(states), -1, side**2, states.shape[-1]).mean(dim=2)
        mean = torch.take_along_dim(mean, square[..., None], dim=1)
        middle = (row % side == side // 2) & (column % side == side // 2)
        homes = middle.nonzero()[:, 1].view(len(states), -1)  # in the order of the squares
        into = images.join_numbers(homes.gather(1, square))
        return Kept(images.join(middle), images.join(mean), into.masked_fill(~view.valid, -1))
