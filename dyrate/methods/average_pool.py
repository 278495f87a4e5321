"""Control by averaging: squares of visual tokens become one token each."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from dyrate.errors import DyrateError
from dyrate.methods.images import expect_no_class_token
from dyrate.methods.positions import positions_of
from dyrate.needs import Positions
from dyrate.reduction import Kept, Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class AveragePool(ReductionMethod):
    """Average `size` x `size` squares of each image's projected features, without a choice of tokens.

    On entering layer 0, in the image's order, at positions without gaps or, with `positions`, that of the
    token that it goes by: of 24 x 24 tokens, 144 are left with
    `size` 2 and 64 with 3. A size that does not divide the grid is refused. In `run.kept` and `run.merged` a
    square goes by its token behind the middle.
    """

    name: ClassVar[str] = "average_pool"
    title: ClassVar[str] = "Average pooling"
    examples = ({"size": 2}, {"size": 2, "positions": "original"}, {"size": 4})
    keeps_everything = ({"size": 1},)

    size: int = hyperparameter(
        "side of the squares, in tokens; it must divide the grid's",
        default=2,
        minimum=1,
        label=lambda size: f"{size} x {size}",
    )

    positions: str = positions_of("contiguous", "what is left")

    def needs(self, depth: int) -> Needs:
        """Positions without gaps: the prompt is simply shorter."""
        return Needs(prefill=(0,), positions=cast(Positions, self.positions))

    def prefill(self, view: PrefillView) -> Kept:
        """Let one token of each square hold the mean of all; of the newlines of its rows the last stays."""
        side, valid, grid = self.size, view.valid, view.grid[view.valid]
        expect_no_class_token(grid)
        of_row, place = valid.nonzero().unbind(dim=1)
        picture, row, column = grid.unbind(dim=1)
        picture = picture + of_row * (int(picture.max()) + 1)
        sizes = torch.zeros(int(picture.max()) + 1, 2, dtype=torch.long, device=grid.device)
        sizes.scatter_reduce_(0, picture[:, None].expand(-1, 2), grid[:, 1:] + 1, "amax")
        for rows, columns in sizes.tolist():
            if rows % side or columns % side:
                raise DyrateError(
                    f"{self}: {side} x {side} tokens do not divide the image's grid of {rows} x {columns}; "
                    f"size must divide {rows}" + (f" and {columns}" if columns != rows else "")
                )
        patch, (rows, columns) = column >= 0, (sizes.amax(dim=0) // side + 1).tolist()
        square = (picture * rows + row // side) * columns + column // side + 1  # 0 is that of newlines
        middle = (row % side == side // 2) & (column % side == side // 2)
        stays = torch.where(patch, middle, row % side == side - 1)

        states = view.states[valid].float()
        members = torch.where(patch, square, -1).argsort(stable=True)[int((~patch).sum()) :]
        mean = states[members].view(-1, side**2, states.shape[-1]).mean(dim=1)
        states[members] = mean.repeat_interleave(side**2, dim=0)
        homes = torch.zeros(int(square.max()) + 1, dtype=torch.long, device=grid.device)
        homes[square[stays]] = place[stays]

        kept, into = torch.zeros_like(valid), torch.full_like(valid, -1, dtype=torch.long)
        pooled = states.new_zeros(*valid.shape, states.shape[-1])
        kept[valid], into[valid], pooled[valid] = stays, homes[square], states
        return Kept(kept, pooled, into)
