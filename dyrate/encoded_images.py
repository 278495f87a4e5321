"""What was encoded last, and which image makes which tokens of the prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.tokens import TokenLayout


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """One call of the vision encoder, which may come before the prefill and before rows are copied."""

    pixels: Sequence[Tensor]
    """Those of each image, as they came."""
    places: Sequence[int]
    """Image tokens that each image has in the prompt."""
    find_positions: Callable[[], Sequence[Tensor]]
    """Returns where these stand in each image: LongTensor [places, 3], see `Family.places`."""
    homes: Sequence[Tensor]
    """For each image, the places that its features stand in (LongTensor [n], ascending)."""
    inputs: Mapping[str, Any]
    """The arguments of `get_image_features`."""
    patches: int = 0
    """Patches of each image that the encoder really saw, where all are of one size."""
    macs: int = 0
    """Multiply-accumulates of encoding all of them, where they are not."""
    tower_saved: int = 0
    """Multiply-accumulates that the tower was spared of what these cost."""
    unprojected: int = 0
    """Patches of all images of which no feature was projected by itself."""
    connector_macs: int = 0
    """Multiply-accumulates of another connector than the projector, for all of them."""
    hidden_states: Sequence[Tensor] | None = None
    """FloatTensor [pictures, tokens, width], or [tokens, width] of all of them: each tower layer's input,
    then the last's output; if needed.
    """

    def of_rows(self, image_tokens: Sequence[int]) -> list[range]:
        """Return the images of each row of a prompt with so many image tokens; rows may be copies of the
        encoded batch's rows.

        Raises `DyrateError` where images and image tokens do not belong together.
        """
        places = self.places
        copies, rest = divmod(sum(image_tokens), max(1, sum(places)))
        images, start = [], 0
        for row, count in enumerate(image_tokens):
            stop, left = start, count
            while left > 0 and stop < len(places):
                left -= places[stop]
                stop += 1
            if rest or copies == 0 or left:
                sizes = sorted(set(places))
                raise DyrateError(
                    f"the prompt has {list(image_tokens)} image tokens per row, which does not fit "
                    f"{len(places)} images of {' or '.join(map(str, sizes))} tokens each"
                )
            images.append(range(start, stop))
            if (row + 1) % copies == 0:
                start = stop
        return images

    def tokens_of(self, layout: TokenLayout, image_tokens: Sequence[int]) -> Tensor:
        """LongTensor [batch, V]: which of all images' places, one after the other, a visual token is; -1 for
        no token.

        Raises `DyrateError` where the attention mask hides some of an image's tokens.
        """
        shown: list[int] = layout.visual_tokens.tolist()
        if any(some not in (0, whole) for some, whole in zip(shown, image_tokens, strict=True)):
            raise DyrateError(
                f"attention_mask shows {shown} of the {list(image_tokens)} image tokens per row; a method "
                "that works on the vision encoder needs all of a row's, or none"
            )
        starts = [sum(self.places[: images.start]) for images in self.of_rows(image_tokens)]
        index = torch.arange(layout.num_visual) + torch.tensor(starts)[:, None]
        return index.to(layout.visual_tokens.device).masked_fill(~layout.valid, -1)

    @property
    def filled(self) -> Tensor:
        """BoolTensor [all images' places], on the CPU: those that a feature stands in."""
        empty = (torch.zeros(places, dtype=torch.bool) for places in self.places)
        return torch.cat(
            [part.index_fill(0, homes, True) for part, homes in zip(empty, self.homes, strict=True)]
        )
