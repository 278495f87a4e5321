"""The vision encoder's side: what was encoded last, which image makes which tokens, what the tower keeps."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from dyrate.errors import DyrateError
from dyrate.families import TOWERS, Family
from dyrate.hooks import eager, stand_in
from dyrate.installation import Installation
from dyrate.needs import Needs, tower_layer
from dyrate.tokens import TokenLayout

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """One call of the vision encoder, which may come before the prefill and before rows are copied."""

    pixels: Tensor
    """FloatTensor [images, channels, height, width], as they came."""
    grids: Sequence[Grid]
    """For each image, rows and columns of its patches."""
    places: Sequence[int]
    """Image tokens that each image has in the prompt."""
    homes: Sequence[Tensor]
    """For each image, the places that its features stand in (LongTensor [n], ascending)."""
    patches: int
    """Patches of each image that the encoder really saw."""
    tower_saved: int = 0
    """Multiply-accumulates that the tower was spared of what these cost."""
    unprojected: int = 0
    """Patches of all images of which no feature was projected by itself."""
    connector_macs: int = 0
    """Multiply-accumulates of another connector than the projector, for all of them."""
    hidden_states: Sequence[Tensor] | None = None
    """FloatTensor [images, tokens, width]: each tower layer's input, then the last's output; if needed."""

    def of_rows(self, image_tokens: Sequence[int]) -> list[range]:
        """Return the images of each row of a prompt with so many image tokens; rows may be copies of the
        encoded batch's rows.

        Raises `DyrateError` where images and image tokens do not belong together.
        """
        copies, rest = divmod(sum(image_tokens), max(1, sum(self.places)))
        images, start = [], 0
        for row, count in enumerate(image_tokens):
            stop, left = start, count
            while left > 0 and stop < len(self.places):
                left -= self.places[stop]
                stop += 1
            if rest or copies == 0 or left:
                sizes = sorted(set(self.places))
                raise DyrateError(
                    f"the prompt has {list(image_tokens)} image tokens per row, which does not fit "
                    f"{len(self.places)} images of {' or '.join(map(str, sizes))} tokens each"
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


class VisionHooks:
    """Let images be resized, and features be fewer than places; remember what was encoded until the prompt
    has been read.

    transformers encodes images before the first forward of `generate()`, so the encoder is watched by itself.
    """

    def __init__(self, family: Family, needs: Needs, parts: Installation, label: str) -> None:
        self.family, self.needs, self.parts = family, needs, parts
        self.images: EncodedImages | None = None
        self.image_tokens: list[int] = []
        """Image tokens of each row of the prompt, whether the attention mask shows them or not."""
        self.reading = False
        """Whether the prompt is being read, so that `image_tokens` are those of what is encoded now."""
        self._features: Sequence[Tensor] = ()
        """The features made of `images`."""
        self._attached = False
        """Whether a block is open: compiled code goes on calling the hooks that it was compiled with."""
        if (parts.changes_features or needs.tower) and family.tower_type not in TOWERS:
            raise DyrateError(
                f"{label} works on the vision encoder; supported are {', '.join(TOWERS)}, not "
                f"{family.tower_type!r}"
            )
        if (parts.changes_features or needs.tower) and family.connector is not None:
            raise DyrateError(
                f"{label} works on the vision encoder, and connector {family.connector.name} makes "
                f"{family.connector.tokens} tokens of an image, none of which is that of a patch"
            )
        tokens = (
            family.connector.token if family.connector is not None and family.connector.appended else None
        )
        if tokens is not None and tokens not in needs.compression_tokens:
            raise DyrateError(
                f"{label} lets answers see the image, and the model was trained to see it through its "
                "compression "
                f"tokens alone: use the method voco with token {tokens}"
            )
        for layer, asked in needs.tower.items():
            depth = len(family.tower_layers)
            if tower_layer(layer, depth) is None:
                which = f"layer at {layer} of its depth" if isinstance(layer, float) else f"layer {layer}"
                raise DyrateError(f"{label}: the vision tower has {depth} layers, and no {which}")
            if {"class_attention", "joint_class_attention"} & {*asked} and not family.class_tokens:
                raise DyrateError(
                    f"{label} reads the attention of the class token, and a vision tower of type "
                    f"{family.tower_type!r} has none"
                )
        self._seen: tuple[Tensor, Grid] | None = None
        """Images as they came, and the grid of what the tower saw of them."""
        self._hidden_states: Sequence[Tensor] | None = None

    def attach(self, undo: ExitStack) -> None:
        """Hook into the encoder until `undo` is closed."""
        tower = self.family.vision_tower
        undo.callback(tower.register_forward_pre_hook(self._before_tower, with_kwargs=True).remove)
        if self.needs.tower:
            undo.callback(tower.register_forward_hook(self._after_tower).remove)
        owner = self.family.encoder_owner
        plain = owner.get_image_features

        @wraps(plain)
        @eager
        def get_image_features(*args: Any, **kwargs: Any) -> Any:
            self._seen = None
            layer = kwargs.get("vision_feature_layer")
            if self.needs.tower and layer not in (None, self.family.feature_layer):
                raise DyrateError(
                    f"vision_feature_layer={layer!r} is not the model's own, {self.family.feature_layer!r}, "
                    "which a method that works on the vision tower goes by"
                )
            return self._after_encoder(plain(*args, **kwargs))

        stand_in(owner, "get_image_features", get_image_features, undo)
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
            features = self.family.features(encoded)
            self._check(len(features), sum(map(len, features)))
        if self.images is not None:
            self.images.of_rows(image_tokens)

    def forget(self) -> None:
        """Drop the images; they belong to one prompt."""
        self.images = self._seen = self._hidden_states = None
        self._features, self.reading = (), False

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
        if encoded is None:
            return False
        made = {part.data_ptr() for part in self._features}
        return all(part.data_ptr() in made for part in self.family.features(encoded))

    @eager
    def _before_tower(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._attached:
            return args, kwargs
        pixels: Tensor | None = args[0] if args else kwargs.pop("pixel_values")
        if pixels is None or not len(pixels):
            raise DyrateError("pixel_values holds no image; leave it out for a prompt without images")
        resized = pixels if self.parts.resize is None else self.parts.resize(pixels)
        self._seen = pixels, self.family.grid(resized)
        if resized is not pixels:
            kwargs["interpolate_pos_encoding"] = True
        if self.needs.tower:
            kwargs["output_hidden_states"] = True
        return (resized, *args[1:]), kwargs

    @eager
    def _after_tower(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._hidden_states = output.hidden_states

    def _after_encoder(self, encoded: Any) -> Any:
        """Spread fewer features than places over the places of their images, and remember whose they are."""
        if self._seen is None or not self._attached or not hasattr(encoded, "pooler_output"):
            return encoded
        (pixels, seen), self._seen, self.images = self._seen, None, None
        features = self.family.features(encoded)
        connector = self.family.connector  # all of whose images are of one size
        if connector is None and self.family.tower_type not in TOWERS and len(features) > 1:
            return encoded  # Images of several sizes, padded to one: which pixels are whose is not known.
        grid, patches = self.family.grid(pixels), seen[0] * seen[1]
        if connector is not None:
            tokens = len(features[0])
            self.images = EncodedImages(
                pixels=pixels,
                grids=[connector.grid or (0, 0)] * len(features),
                places=[tokens] * len(features),
                homes=[torch.arange(tokens)] * len(features),
                patches=patches,
                unprojected=len(features) * patches,
                connector_macs=self.family.connector_macs(),
            )
            return self._with_features(encoded, features)
        given = self.parts.connector_input or len(features[0])
        # What the tower adds to its patches: one class token, where the checkpoint keeps it.
        extra = given - patches
        if self.parts.changes_tower:
            extra = self.family.class_tokens - self.family.cropped
        places = grid[0] * grid[1] + extra
        homes = _homes(grid, seen, len(features[0]), extra).expand(len(features), -1)
        origins = self.parts.origins(len(features[0])) if self.parts.changes_tower else None
        if origins is not None:
            order = origins.argsort(dim=1)
            features = [part[own] for part, own in zip(features, order, strict=True)]
            encoded.pooler_output = features
            homes = _homes(grid, seen, patches + extra, extra)[origins.gather(1, order).cpu()]
        self.images = EncodedImages(
            pixels=pixels,
            grids=[grid] * len(features),
            places=[places] * len(features),
            homes=list(homes),
            patches=patches,
            tower_saved=self.parts.tower_saved,
            unprojected=len(features) * (patches + extra - given) if self.parts.changes_tower else 0,
            hidden_states=self._hidden_states,
        )
        if homes.shape[1] < places:
            whole = features[0].new_zeros(len(features), places, features[0].shape[-1])
            index = homes[..., None].expand(-1, -1, whole.shape[-1]).to(whole.device)
            features = list(whole.scatter(1, index, torch.stack(features)))
            encoded.pooler_output = features
        return self._with_features(encoded, features)

    def _with_features(self, encoded: Any, features: Sequence[Tensor]) -> Any:
        """Remember the features of `images`, which must be as many as the places of a prompt being read."""
        assert self.images is not None
        if self.reading:
            self._check(len(features), sum(self.images.places))
            self.images.of_rows(self.image_tokens)
        self._features = features
        return encoded


def _homes(grid: Grid, seen: Grid, features: int, extra: int) -> Tensor:
    """LongTensor [features], ascending: the place of each feature of an image, of `extra` + rows x columns.

    `seen` is the grid of what the tower saw. Features that are not one for each of its patches are taken
    for a smaller grid of the same proportions, if they can be one.
    """
    rows, columns = grid
    spatial = features - extra
    height, width = seen
    if height * width != spatial:
        height = isqrt(max(0, spatial * rows // columns))
        width = height * columns // rows
    if height * width == spatial and height <= rows and width <= columns:
        row = (torch.arange(height) * 2 + 1) * rows // (2 * height)
        column = (torch.arange(width) * 2 + 1) * columns // (2 * width)
        return torch.cat([torch.arange(extra), (row[:, None] * columns + column).flatten() + extra])
    total = rows * columns + extra
    return (torch.arange(features) * 2 + 1) * total // (2 * features)
