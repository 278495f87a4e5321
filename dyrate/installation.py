"""What a reduction method puts into a model for the length of a `with` block."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.hooks import eager, stand_in

Resize = Callable[[Tensor], Tensor]
"""Images [images, channels, height, width] -> the same images in another size."""
Connector = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""(features of the tower [images, n, width], the model's own connector) -> [images, n', hidden], n' <= n."""


class Installation:
    """The places of one model where a method may put something else."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        self.model = model
        self.family = family
        self.resize: Resize | None = None
        self.embeddings: dict[int, Tensor] = {}
        """By token id, FloatTensor [hidden]: embeddings of tokens that the model does not have."""
        self.connector_input: int | None = None
        """Features per image that the last call of a replaced connector was given."""
        self._connector: Connector | None = None

    @property
    def changes_features(self) -> bool:
        """Whether images may make fewer features than they have places in the prompt."""
        return self.resize is not None or self._connector is not None

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels."""
        return self.family.patch_size

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

    def embed_tokens(self, embeddings: dict[int, Tensor]) -> None:
        """Give token ids of the prompt, known to the model or not, an embedding (FloatTensor [hidden])."""
        self.embeddings |= embeddings

    def attach(self, undo: ExitStack) -> None:
        """Put in place what was asked for, until `undo` is closed."""
        if self._connector is not None:
            projector = self.family.projector
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
        if self.embeddings:
            embed = self.family.embed
            undo.callback(embed.register_forward_pre_hook(self._known_ids).remove)
            undo.callback(embed.register_forward_hook(self._with_embeddings).remove)

    @eager
    def _known_ids(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self._ids: Tensor = args[0]
        for token in self.embeddings:
            args = (args[0].masked_fill(args[0] == token, 0), *args[1:])
        return args

    @eager
    def _with_embeddings(self, module: nn.Module, args: tuple[Any, ...], states: Tensor) -> Tensor:
        for token, embedding in self.embeddings.items():
            states = torch.where((self._ids == token)[..., None], embedding.to(states), states)
        return states
