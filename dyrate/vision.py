"""The vision encoder's side: what stands in it for a while, and what it makes of a prompt's images."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from inspect import signature
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dyrate.attention import FORWARD_KEYWORD
from dyrate.encoded_images import EncodedImages
from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.families.tower import TOWERS
from dyrate.hooks import eager, stand_in
from dyrate.installation import Installation
from dyrate.needs import Needs

Grid = tuple[int, int]


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
        tower, connector = family.tower, family.tower.connector
        if parts.changes_features:
            family.patches(label)
        if parts.changes_features or needs.tower:
            if not tower.ordered:
                raise DyrateError(
                    f"{label} works on the vision encoder; supported are {', '.join(TOWERS)}, not "
                    f"{tower.kind!r}"
                )
            if connector is not None:
                raise DyrateError(
                    f"{label} works on the vision encoder, and connector {connector.name} makes "
                    f"{connector.tokens} tokens of an image, none of which is that of a patch"
                )
            if needs.question and needs.tower and tower.kind != "clip_vision_model":
                raise DyrateError(
                    f"{label} compares what the vision tower has with the question, by CLIP's other half, "
                    f"and the vision tower of {family.name} is {tower.kind!r}"
                )
        tokens = connector.token if connector is not None and connector.appended else None
        if tokens is not None and tokens not in needs.compression_tokens:
            raise DyrateError(
                f"{label} lets answers see the image, and the model was trained to see it through its "
                "compression "
                f"tokens alone: use the method voco with token {tokens}"
            )
        for layer, asked in needs.tower.items():
            if tower.layer(layer) is None:
                which = f"layer {layer}"
                if isinstance(layer, float):
                    which = f"layer at {layer} of its depth"
                elif isinstance(layer, str):
                    which = f"one that the projector reads: vision_feature_layer={tower.feature_layer}"
                raise DyrateError(f"{label}: the vision tower has {len(tower.layers)} layers, and no {which}")
            if {"class_attention", "joint_class_attention"} & {*asked} and not tower.class_tokens:
                raise DyrateError(
                    f"{label} reads the attention of the class token, and a vision tower of type "
                    f"{tower.kind!r} has none"
                )
        self._ran = False
        """Whether the encoder has run for the features to come."""
        self._seen: tuple[Grid, Grid] = (0, 0), (0, 0)
        """Grids of the images as they came, and of what a tower of patches saw of them."""
        self._hidden_states: Sequence[Tensor] | None = None

    def attach(self, undo: ExitStack) -> None:
        """Hook into the encoder until `undo` is closed."""
        encoder = self.family.encoder
        undo.callback(encoder.register_forward_pre_hook(self._before_encoder, with_kwargs=True).remove)
        if self.needs.tower:
            undo.callback(encoder.register_forward_hook(self._after_tower).remove)
        owner, tower = self.family.encoder_owner, self.family.tower
        plain = owner.get_image_features
        arguments = signature(plain)

        @wraps(plain)
        @eager
        def get_image_features(*args: Any, **kwargs: Any) -> Any:
            self._ran = False
            kwargs.pop(FORWARD_KEYWORD, None)  # Qwen's hands all it is given down to the tower
            inputs = arguments.bind(*args, **kwargs).arguments
            layer = inputs.get("vision_feature_layer")
            if self.needs.tower and layer not in (None, tower.feature_layer):
                raise DyrateError(
                    f"vision_feature_layer={layer!r} is not the model's own, {tower.feature_layer!r}, "
                    "which a method that works on the vision tower goes by"
                )
            return self._after_encoder(inputs, plain(*args, **kwargs))

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
        self.images = self._hidden_states = None
        self._features, self.reading, self._ran = (), False, False

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
        others = [part for part in self.family.features(encoded) if part.data_ptr() not in made]
        # Rows that are copied, for beams or several answers, may have copies of features.
        return all(any(torch.equal(part, own) for own in self._features) for part in others)

    @eager
    def _before_encoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._attached:
            return args, kwargs
        pixels: Tensor | None = args[0] if args else kwargs.pop("pixel_values")
        if pixels is None or not len(pixels):
            raise DyrateError("pixel_values holds no image; leave it out for a prompt without images")
        self._ran = True
        resized = pixels if self.parts.resize is None else self.parts.resize(pixels)
        if self.family.patchwise:
            self._seen = self.family.tower.grid(pixels), self.family.tower.grid(resized)
        if resized is not pixels:
            kwargs["interpolate_pos_encoding"] = True
        if self.needs.tower:
            kwargs["output_hidden_states"] = True
        return (resized, *args[1:]), kwargs

    @eager
    def _after_tower(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._hidden_states = output.hidden_states

    def _after_encoder(self, inputs: Mapping[str, Any], encoded: Any) -> Any:
        """Remember whose the features are that the encoder made of its arguments."""
        if not (self._ran and self._attached and hasattr(encoded, "pooler_output")):
            return encoded
        self._ran, self.images = False, None
        features, tower = self.family.features(encoded), self.family.tower
        pixels = self.family.images(inputs, features)
        if pixels is None:
            return encoded
        if self.family.patchwise and tower.connector is None:
            return self._spread(inputs, pixels, encoded, features)
        whole = [torch.arange(len(part)) for part in features]
        places, positions = list(map(len, features)), partial(self.family.places, inputs, features)
        if not self.family.patchwise:
            macs = self.family.encoder_macs(inputs, features)
            self.images = EncodedImages(
                pixels, places, positions, whole, inputs, macs=macs, hidden_states=self._hidden_states
            )
        else:
            patches = self._seen[1][0] * self._seen[1][1]
            self.images = EncodedImages(
                pixels,
                places,
                positions,
                whole,
                inputs,
                patches=patches,
                unprojected=len(features) * patches,
                connector_macs=tower.connector_macs(),
            )
        return self._with_features(encoded, features)

    def _spread(
        self, inputs: Mapping[str, Any], pixels: Sequence[Tensor], encoded: Any, features: list[Tensor]
    ) -> Any:
        """Spread fewer features than places over the places of their images."""
        tower, (grid, seen) = self.family.tower, self._seen
        patches = seen[0] * seen[1]
        given = self.parts.connector_input or len(features[0])
        # What the tower adds to its patches: one class token, where the checkpoint keeps it.
        extra = given - patches
        if self.parts.changes_tower:
            extra = tower.class_tokens - tower.cropped
        places = grid[0] * grid[1] + extra
        homes = _homes(grid, seen, len(features[0]), extra).expand(len(features), -1)
        origins = self.parts.origins(len(features[0])) if self.parts.changes_tower else None
        if origins is not None:
            order = origins.argsort(dim=1)
            features = [part[own] for part, own in zip(features, order, strict=True)]
            encoded.pooler_output = features
            homes = _homes(grid, seen, patches + extra, extra)[origins.gather(1, order).cpu()]
        self.images = EncodedImages(
            pixels,
            [places] * len(features),
            lambda: [pad(tower.positions(grid, places), (1, 0))] * len(pixels),
            list(homes),
            inputs,
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
