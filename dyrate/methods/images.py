"""The visual tokens of a batch image by image, for methods that reduce each image by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.reduction import PrefillView


@dataclass(frozen=True, eq=False)
class Images:
    """A batch on entering layer 0: N images, in the order of the rows, of P tokens each in raster order.

    Tensors by image are [N, P, ...]; those by row, as views have them, are [B, V, ...].
    """

    view: PrefillView
    size: int
    """P."""

    @classmethod
    def of(cls, view: PrefillView) -> "Images":
        """Return the images of a batch.

        Raises `DyrateError` for images of several sizes, and for class tokens among the visual tokens.
        """
        number, places = view.grid[..., 0], view.grid[view.valid]
        size, count = int((number == 0).sum(dim=1).max()), int((number.amax(dim=1) + 1).sum())
        expect_no_class_token(places)
        if len(places) != count * size or (places[:, 0].reshape(count, size) != places[::size, :1]).any():
            raise DyrateError("the images of the batch have different numbers of tokens; one is expected")
        return cls(view, size)

    def split(self, values: Tensor) -> Tensor:
        """Return what tokens hold by row as they hold it by image."""
        return values[self.view.valid].view(-1, self.size, *values.shape[2:])

    def join(self, values: Tensor) -> Tensor:
        """Return what tokens hold by image as they hold it by row; 0 for none."""
        valid = self.view.valid
        found = values.new_zeros(*valid.shape, *values.shape[2:])
        found[valid] = values.flatten(0, 1)
        return found

    def join_numbers(self, values: Tensor) -> Tensor:
        """Return numbers of an image's tokens, 0..P-1, as those of its row's, 0..V-1: LongTensor [B, V]."""
        return self.join(values) + self.view.grid[..., 0].clamp_min(0) * self.size

    def scores(self, name: str, values: Tensor) -> Tensor:
        """Return scores [B, V] by image; the generation fails, naming the row, if some are not finite."""
        self.view.expect_finite(name, values)
        return self.split(values.nan_to_num())

    def by_image(self, values: Tensor) -> Tensor:
        """Return what the images of rows hold, [B, most images of a row, ...], as [N, ...]."""
        counts = self.view.visual_tokens // self.size
        return values[torch.arange(values.shape[1], device=values.device) < counts[:, None]]


def expect_no_class_token(places: Tensor) -> None:
    """Raise `DyrateError` for a class token among visual tokens of these places, [n, 3]."""
    if (places[:, 1] < 0).any():
        raise DyrateError(
            "the class token is one of the visual tokens (vision_feature_select_strategy='full'); a "
            "method that reduces an image's patches needs a model without"
        )
