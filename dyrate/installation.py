"""What a reduction method puts into a model for the length of a `with` block."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dyrate.errors import DyrateError
from dyrate.families import Family, Tower
from dyrate.hooks import eager, stand_in

Resize = Callable[[Tensor], Tensor]
"""Images [images, channels, height, width] -> the same images in another size."""
Connector = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""(features of the tower [images, n, width], the model's own connector) -> [images, n', hidden], n' <= n."""


@dataclass(frozen=True, eq=False)
class TowerTokens:
    """What a layer of the vision tower has between its two halves: n tokens of each image."""

    states: Tensor
    """FloatTensor [images, n, width], after its attention."""
    keys: Tensor
    """FloatTensor [images, heads, n, D], of that attention."""
    sizes: Tensor
    """FloatTensor [images, n]: tokens of the first layer that each stands for."""
    origins: Tensor
    """LongTensor [images, n]: the token of the first layer in whose place each one stands."""


TowerChange = Callable[[TowerTokens], TowerTokens]
"""What a layer's second half, and the layers after it, get instead: as many tokens or fewer, of every image
alike; keys are not looked at.
"""


class Installation:
    """The places of one model where a method may put something else."""

    def __init__(self, model: nn.Module, family: Family, label: str) -> None:
        self.model = model
        self.family = family
        self._label = label
        self.resize: Resize | None = None
        self.embeddings: dict[int, Tensor] = {}
        """By token id, FloatTensor [hidden]: embeddings of tokens that the model does not have."""
        self.connector_input: int | None = None
        """Features per image that the last call of a replaced connector was given."""
        self._connector: Connector | None = None
        self._tower_change: TowerChange | None = None
        self._proportional = False
        self._tower: list[tuple[Tensor, Tensor]] = []
        """Sizes and origins of what the tower's last call began with, and of what each layer left of it."""
        self.tower_saved = 0
        """Multiply-accumulates that the tower's last call was spared by having been changed."""

    @property
    def changes_features(self) -> bool:
        """Whether images may make fewer features than they have places in the prompt."""
        return self.resize is not None or self._connector is not None or self.changes_tower

    @property
    def changes_tower(self) -> bool:
        """Whether layers of the vision tower do something else than their own."""
        return self._tower_change is not None

    @property
    def tower(self) -> Tower:
        """The vision tower; a `DyrateError` where visual tokens are not its patches."""
        return self.family.patches(self._label)

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels."""
        return self.tower.patch_size

    def resize_images(self, resize: Resize) -> None:
        """Let the vision tower see images of another size; it interpolates its position embeddings.

        The features take the places of the grid that they are nearest to; the other places leave at layer 0.
        """
        self.resize = resize

    def replace_connector(self, connector: Connector) -> None:
        """Put another connector between vision tower and language model.

        Fewer features than places in the prompt take places as those of a smaller image do: those of an h x w
        grid if they are one, else places at equal distances in raster order.
        """
        self._connector = connector

    def change_tower(self, change: TowerChange, *, proportional: bool = False) -> None:
        """Let `change` have the tokens of every layer of the vision tower, between its attention and its
        feed-forward half.

        Features of fewer tokens take the places of their origins, in the image's order. With `proportional`
        attention to a token counts as often as its size.
        """
        self._tower_change, self._proportional = change, proportional

    def count_tower_macs(self, macs: int) -> None:
        """Let the ledger count multiply-accumulates of a change of the tower itself."""
        self.tower_saved -= macs

    def origins(self, features: int) -> Tensor | None:
        """LongTensor [images, features]: the token in whose place each feature of the last call stands, not
        counting cropped ones; None unless as many tokens were left in some layer.
        """
        cropped = self.tower.cropped
        found = (origins for _, origins in self._tower[1:] if origins.shape[1] - cropped == features)
        origins = next(found, None)
        return None if origins is None else origins[:, cropped:] - cropped

    def embed_tokens(self, embeddings: dict[int, Tensor]) -> None:
        """Give token ids of the prompt, known to the model or not, an embedding (FloatTensor [hidden])."""
        self.embeddings |= embeddings

    def attach(self, undo: ExitStack) -> None:
        """Put in place what was asked for, until `undo` is closed."""
        if self._connector is not None:
            projector = self.tower.projector
            plain: Callable[..., Any] = projector.forward

            @eager
            def forward(features: Tensor) -> Tensor:
                assert self._connector is not None
                self.connector_input = features.shape[1]
                found = self._connector(features, plain)
                if found.dim() != 3 or len(found) != len(features) or found.shape[1] > features.shape[1]:
                    raise DyrateError(
                        f"the installed connector returned visual features of shape {tuple(found.shape)} for "
                        f"{len(features)} images of {features.shape[1]} features each: at most as many are "
                        "expected"
                    )
                return found

            stand_in(projector, "forward", forward, undo)
        if self.changes_tower:
            undo.callback(self._tower.clear)
            for index, layer in enumerate(self.tower.layers):
                stand_in(layer, "forward", eager(partial(self._tower_layer, index)), undo)
        if self.embeddings:
            embed = self.family.embed
            undo.callback(embed.register_forward_pre_hook(eager(self._known_ids)).remove)
            undo.callback(embed.register_forward_hook(eager(self._with_embeddings)).remove)

    def _tower_layer(self, layer: int, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Do what a tower layer does on states [images, tokens, width], with the change in its midst."""
        assert self._tower_change is not None
        images, count, width = hidden_states.shape
        if not layer:
            self.tower_saved = 0
            sizes = torch.ones(images, count, device=hidden_states.device)
            self._tower[:] = [(sizes, torch.arange(count, device=sizes.device).expand(images, -1))]
        sizes, origins = self._tower[-1]
        bias = sizes.log() if self._proportional and layer else None
        attended, keys = self.tower.attention(layer, hidden_states, bias)
        found = self._tower_change(TowerTokens(attended, keys, sizes, origins))
        left = found.states.shape[1] if found.states.dim() == 3 else -1
        shapes = [tuple(part.shape) for part in (found.states, found.sizes, found.origins)]
        if shapes != [(images, left, width), (images, left), (images, left)] or not 0 < left <= count:
            raise DyrateError(
                f"a change of layer {layer} of the vision tower returned states, sizes and origins of shapes "
                f"{', '.join(map(str, shapes))} for {images} images of {count} tokens each: those of as many "
                "or fewer are expected"
            )
        self._tower.append((found.sizes, found.origins))
        macs, whole = self.tower.macs, self._tower[0][1].shape[1]
        self.tower_saved += images * (macs(layer, whole, whole) - macs(layer, count, left))
        return self.tower.feed_forward(layer, found.states)

    def _known_ids(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self._ids: Tensor = args[0]
        for token in self.embeddings:
            args = (args[0].masked_fill(args[0] == token, 0), *args[1:])
        return args

    def _with_embeddings(self, module: nn.Module, args: tuple[Any, ...], states: Tensor) -> Tensor:
        for token, embedding in self.embeddings.items():
            states = torch.where((self._ids == token)[..., None], embedding.to(states), states)
        return states
