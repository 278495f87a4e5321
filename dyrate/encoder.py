"""The vision encoder's side: hooks around it, the images it encoded last, and the rows they belong to."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dyrate.eager import eager
from dyrate.errors import DyrateError
from dyrate.families import TOWERS, Family
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

    def of_rows(self, image_tokens: Sequence[int]) -> list[range]:
        """Return the images of each row of a prompt with so many image tokens; rows may be copies of the
        encoded batch's rows.

        Raises `DyrateError` where images and image tokens do not belong together.
        """
        copies, rest = divmod(sum(image_tokens), max(1, len(self.pixels) * self.placeholders))
        if rest or copies == 0 or any(count % self.placeholders for count in image_tokens):
            raise DyrateError(
                f"the prompt has {list(image_tokens)} image tokens per row, which does not fit "
                f"{len(self.pixels)} images of {self.placeholders} tokens each"
            )
        images, start = [], 0
        for row, count in enumerate(image_tokens):
            stop = start + count // self.placeholders
            images.append(range(start, stop))
            if (row + 1) % copies == 0:
                start = stop
        return images

    def filled(self, layout: TokenLayout, image_tokens: Sequence[int]) -> Tensor:
        """BoolTensor [batch, V]: the visual tokens that a feature stands in.

        Raises `DyrateError` where the attention mask hides some of an image's tokens.
        """
        shown: list[int] = layout.visual_tokens.tolist()
        if any(some not in (0, whole) for some, whole in zip(shown, image_tokens, strict=True)):
            raise DyrateError(
                f"attention_mask shows {shown} of the {list(image_tokens)} image tokens per row; a method "
                "that works on the vision encoder needs all of a row's, or none"
            )
        indices = torch.arange(layout.num_visual, device=layout.visual_tokens.device)
        return layout.valid & (indices % self.placeholders < self.features)


def row_seeds(
    seed: int,
    input_ids: Tensor,
    layout: TokenLayout,
    images: EncodedImages | None,
    image_tokens: Sequence[int],
) -> list[int]:
    """Return one seed per row, made of `seed` and the row's own tokens and pixels, not of its batch.

    Raises `DyrateError` for a prompt with images whose pixels are not known.
    """
    if images is None and any(image_tokens):
        raise DyrateError(
            "the random choice depends on the images, which are not known one by one: their features were "
            "made outside the with block, or by a tower that packs them; pass pixel_values to a CLIP tower"
        )
    rows = images.of_rows(image_tokens) if images is not None else [range(0)] * len(input_ids)
    seeds = []
    for tokens, classes, own in zip(input_ids.cpu().long(), layout.classes.cpu(), rows, strict=True):
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
        self.image_tokens: list[int] = []
        """Image tokens of each row of the prompt, whether the attention mask shows them or not."""
        self._features: Tensor | None = None
        """The features made of `images`."""
        self._attached = False
        """Whether a block is open: compiled code goes on calling the hooks that it was compiled with."""
        self.reading = False
        """Whether the prompt is being read, so that `image_tokens` are those of what is encoded now."""
        tower = getattr(getattr(family.vision_tower, "config", None), "model_type", "")
        if method.reduces_encoder and tower not in TOWERS:
            raise DyrateError(
                f"{method} works on the vision encoder; supported are {', '.join(TOWERS)}, not {tower!r}"
            )
        self._resized: tuple[Tensor, int] | None = None
        """Images as they came, and the patches per image after resizing."""

    def attach(self, undo: ExitStack) -> None:
        """Hook into tower and projector until `undo` is closed."""
        hook = self.family.vision_tower.register_forward_pre_hook(self._before_tower, with_kwargs=True)
        undo.callback(hook.remove)
        undo.callback(self.family.projector.register_forward_hook(self._after_projector).remove)
        undo.callback(self._detach)
        self._attached = True

    def _detach(self) -> None:
        self.forget()
        self._attached = False

    def begin(self, image_tokens: list[int], encoded: Any) -> None:
        """Begin a prompt: its images are those encoded already (`encoded`, the encoder's output), or those
        that its own forward will encode.

        Raises `DyrateError` where images and image tokens do not belong together.
        """
        if not self._made(encoded):
            self.forget()
        self.image_tokens, self.reading = image_tokens, True
        if encoded is not None:
            self._check(len(encoded.pooler_output), sum(len(part) for part in encoded.pooler_output))
        if self.images is not None:
            self.images.of_rows(image_tokens)

    def forget(self) -> None:
        """Drop the images; they belong to one prompt."""
        self.images = self._resized = self._features = None
        self.reading = False

    def _check(self, images: int, features: int) -> None:
        tokens = sum(self.image_tokens)
        if features != tokens:
            raise DyrateError(
                f"the prompts have {tokens} image tokens, but the images make {features} visual features: "
                f"prompts and images do not belong together (images: {images}, image tokens per row: "
                f"{self.image_tokens})"
            )

    def _made(self, encoded: Any) -> bool:
        """Whether all features of the encoder's output `encoded` are those made last, inside the block."""
        if encoded is None or self._features is None:
            return False
        made = self._features.untyped_storage().data_ptr()
        return all(part.untyped_storage().data_ptr() == made for part in encoded.pooler_output)

    @eager
    def _before_tower(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._attached:
            return args, kwargs
        pixels: Tensor | None = args[0] if args else kwargs.pop("pixel_values")
        if pixels is None or not len(pixels):
            raise DyrateError("pixel_values holds no image; leave it out for a prompt without images")
        resized = self.method.resize(pixels, self.family.patch_size)
        self._resized = pixels, self._patches(resized)
        if resized is not pixels:
            kwargs["interpolate_pos_encoding"] = True
        return (resized, *args[1:]), kwargs

    @eager
    def _after_projector(self, module: nn.Module, args: tuple[Any, ...], features: Tensor) -> Tensor | None:
        if self._resized is None:
            return None
        pixels, patches = self._resized
        self._resized = self.images = None
        if len(features) != len(pixels):
            return (
                None  # Images of several sizes, packed into one row: which features are whose is not known.
            )
        # What the tower adds to its patches: one class token, where the checkpoint keeps it.
        placeholders = self._patches(pixels) + features.shape[1] - patches
        reduced = self.method.encode(features)
        if reduced.dim() != 3 or len(reduced) != len(features) or reduced.shape[1] > placeholders:
            raise DyrateError(
                f"{self.method}: visual features of shape {tuple(reduced.shape)} do not fit {len(features)} "
                f"images of at most {placeholders} tokens"
            )
        self.images = EncodedImages(pixels, placeholders, reduced.shape[1], patches)
        if self.reading:
            self._check(len(pixels), len(pixels) * placeholders)
            self.images.of_rows(self.image_tokens)
        missing = placeholders - reduced.shape[1]
        self._features = pad(reduced, (0, 0, 0, missing)) if missing else reduced
        return self._features

    def _patches(self, pixels: Tensor) -> int:
        rows, columns = (side // self.family.patch_size for side in pixels.shape[-2:])
        return rows * columns
