"""Another connector for the length of a block: projected features, averaged over squares of the grid (as in
M3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

from torch import Tensor
from torch.nn.functional import avg_pool2d

from dyrate import Installation, Needs, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class PooledConnector(ReductionMethod):
    """Average `size` x `size` squares after the projector (M3, arXiv:2405.17430)."""

    title = "Pooled connector"
    examples = ({"size": 2}, {"size": 4})
    keeps_everything = ({"size": 1},)

    size: int = hyperparameter(
        "side of the squares, in tokens; it must divide the grid's", default=2, minimum=1
    )

    def needs(self, depth: int) -> Needs:
        """Positions without gaps: the prompt is simply shorter."""
        return Needs(positions="contiguous")

    def install(self, parts: Installation) -> None:
        """Let the pool follow the model's own projector."""
        parts.replace_connector(self._pooled)

    def _pooled(self, features: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        projected = project(features)
        images, tokens, width = projected.shape
        grid = projected.transpose(1, 2).reshape(images, width, isqrt(tokens), -1)
        return avg_pool2d(grid, self.size).flatten(2).transpose(1, 2)
