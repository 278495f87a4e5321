"""The vision encoder's side: hooks around it, the images it encoded last, and the rows they belong to."""

from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.tokens import TokenClass, TokenLayout

if TYPE_CHECKING:
    from dyrate.reduction import ReductionMethod


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """One call of the vision encoder, which may come before the prefill and before rows are copied."""

    pixels: Tensor
    """FloatTensor [images, channels, height, width], as they came."""
    placeholders: int
    """Image tokens that each image has in the prompt."""
    features: int
    """Visual features that each image really has; they fill its first placeholders."""
    patches: int
    """Patches of each image that the encoder really saw."""
    packed: bool = False
    """The encoder made one row of all images."""

    def of_rows(self, layout: TokenLayout) -> list[range]:
        """Return the images of each row of the prompt; rows may be copies of the encoded batch's rows.

        Raises `DyrateError` where the rows do not fit the images, or the images were packed.
        """
        if self.packed:
            raise DyrateError(
                "this vision tower (Pixtral's) packs its images into one row of patches: methods that reduce "
                "in the encoder, or draw a row's tokens by its own pixels, are not supported on it"
            )
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
    """Return one seed per row, made of `seed` and the row's own tokens and pixels, not of its batch."""
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


class EncoderHooks:
    """Let a method resize images and reduce features; remember what was encoded until the prompt has been
    read.

    Recent versions of transformers encode images before the first forward of `generate()`, so the encoder
    is watched by itself.
    """

    def __init__(self, method: "ReductionMethod", family: Family):
        self.method = method
        self.family = family
        self.images: EncodedImages | None = None
        self._resized: tuple[Tensor, int] | None = None
        """Images as they came, and the patches per image after resizing."""

    def attach(self, undo: ExitStack) -> None:
        """Hook into tower and projector until `undo` is closed."""
        hook = self.family.vision_tower.register_forward_pre_hook(self._before_tower, with_kwargs=True)
        undo.callback(hook.remove)
        undo.callback(self.family.projector.register_forward_hook(self._after_projector).remove)
        undo.callback(self.forget)

    def forget(self) -> None:
        """Drop the images; they belong to one prompt."""
        self.images = self._resized = None

    def _before_tower(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        pixels: Tensor = args[0] if args else kwargs.pop("pixel_values")
        resized = self.method.resize(pixels, self.family.patch_size)
        self._resized = pixels, self._patches(resized)
        if resized is not pixels and self.family.packs_images:
            raise DyrateError(
                f"{self.method} resizes images, which is not supported on this vision tower (Pixtral's): it "
                "packs images of several sizes into one row of patches"
            )
        if resized is not pixels:
            kwargs["interpolate_pos_encoding"] = True
        return (resized, *args[1:]), kwargs

    def _after_projector(self, module: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor | None:
        if self._resized is None:
            return None
        pixels, patches = self._resized
        # What the tower adds to its patches: one class token, where the checkpoint keeps it.
        placeholders = self._patches(pixels) + features.shape[1] - patches
        reduced = self.method.encode(features)
        if reduced.dim() != 3 or len(reduced) != len(features) or reduced.shape[1] > placeholders:
            raise DyrateError(
                f"{self.method}: visual features of shape {tuple(reduced.shape)} do not fit {len(features)} "
                f"images of at most {placeholders} tokens"
            )
        self.images = EncodedImages(
            pixels, placeholders, reduced.shape[1], patches, packed=self.family.packs_images
        )
        self._resized = None
        missing = placeholders - reduced.shape[1]
        return pad(reduced, (0, 0, 0, missing)) if missing else reduced

    def _patches(self, pixels: Tensor) -> int:
        rows, columns = (side // self.family.patch_size for side in pixels.shape[-2:])
        return rows * columns
