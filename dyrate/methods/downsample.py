"""Control by resolution: fewer tokens because the image is smaller."""

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import interpolate

from dyrate.errors import DyrateError
from dyrate.methods.budget import RateOrBudget
from dyrate.reduction import Installation, Needs


@dataclass(frozen=True)
class Downsample(RateOrBudget):
    """Shrink the image, so that the vision tower makes fewer tokens.

    The image is resized (bilinear, antialiased) to h x w patches, |h - w| <= 1, with the largest h w <=
    round((1 - R) V); the tower interpolates its position embeddings. The features take the places of the
    whole grid that they are nearest to, and the language model numbers its tokens as if there had never been
    more.
    """

    name: ClassVar[str] = "downsample"
    title: ClassVar[str] = "Downsampled image"
    examples = ({"rate": 0.4}, {"rate": 0.0})
    keeps_everything = ({"rate": 0.0},)

    def needs(self, depth: int) -> Needs:
        """Positions without gaps: the prompt is simply shorter."""
        return Needs(positions="contiguous")

    def install(self, parts: Installation) -> None:
        """Let the vision tower see smaller images."""
        rate = self.rate_in(len(parts.family.layers))
        parts.resize_images(lambda images: self._resized(images, parts.patch_size, rate))

    def _resized(self, images: Tensor, patch_size: int, rate: float) -> Tensor:
        """Shrink the images to the patches that the rate leaves."""
        rows, columns = (side // patch_size for side in images.shape[-2:])
        height, width = near_square(round((1 - rate) * rows * columns))
        if height == 0:
            raise DyrateError(
                f"{self}: no patch is left of {rows} x {columns}; use a lower rate, or the method text_only"
            )
        if rate == 0:
            return images
        size = (height * patch_size, width * patch_size)
        # Antialiasing is not implemented in half precision on every device.
        resized = interpolate(images.float(), size=size, mode="bilinear", antialias=True)
        return resized.to(images.dtype)


def near_square(budget: int) -> tuple[int, int]:
    """Return the (height, width) with |height - width| <= 1 that has the most patches within `budget`."""
    height = isqrt(budget)
    return height, height + (height * (height + 1) <= budget and height > 0)
