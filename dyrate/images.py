"""The images that were last encoded, and which of them belong to which row of the prompt."""

from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from dyrate.errors import DyrateError
from dyrate.tokens import TokenClass, TokenLayout


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """One call of the vision encoder, which may come long before the prefill, and before rows are copied for
    beams.
    """

    pixels: Tensor
    """FloatTensor [images, channels, height, width], as they came."""
    placeholders: int
    """Image tokens that each image has in the prompt."""
    features: int
    """Visual features that each image really has; they fill its first placeholders."""

    def of_rows(self, layout: TokenLayout) -> list[range]:
        """Return the images of each row of the prompt, whose rows may be copies of the encoded batch's
        rows.
        """
        counts: list[int] = layout.visual_tokens.tolist()
        copies, rest = divmod(sum(counts), len(self.pixels) * self.placeholders)
        if rest or copies == 0 or any(count % self.placeholders for count in counts):
            raise DyrateError(
                f"the prompt has {counts} image tokens per row, which does not fit {len(self.pixels)} images "
                f"of {self.placeholders} tokens each"
            )
        images, start = [], 0
        for row, count in enumerate(counts):
            stop = start + count // self.placeholders
            images.append(range(start, stop))
            if (row + 1) % copies == 0:
                start = stop
        return images

    def filled(self, layout: TokenLayout) -> Tensor:
        """BoolTensor [batch, V]: the visual tokens that a feature stands in."""
        self.of_rows(layout)
        indices = torch.arange(layout.num_visual, device=layout.visual_tokens.device)
        return layout.valid & (indices % self.placeholders < self.features)


def row_seeds(seed: int, input_ids: Tensor, layout: TokenLayout, images: EncodedImages | None) -> list[int]:
    """Return one seed per row that depends on `seed` and on the row's own tokens and pixels, not on its
    batch.
    """
    rows = images.of_rows(layout) if images is not None else [range(0)] * len(input_ids)
    seeds = []
    for tokens, classes, own in zip(input_ids.cpu(), layout.classes.cpu(), rows, strict=True):
        digest = sha256(str(seed).encode())
        digest.update(tokens[classes != TokenClass.PADDING].numpy().tobytes())
        if images is not None:
            digest.update(
                images.pixels[own.start : own.stop].contiguous().cpu().view(torch.uint8).numpy().tobytes()
            )
        seeds.append(int.from_bytes(digest.digest()[:8], "big") >> 1)
    return seeds
