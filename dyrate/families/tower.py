"""A vision tower in the shape of CLIP's: what reduces tokens inside it, or by what it holds of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import Blip2VisionConfig

from dyrate.needs import TowerPlace, tower_layer

# Towers that give every image the same number of features, in the order of its patches.
TOWERS = ("clip_vision_model", "siglip_vision_model")
_WITH_CLASS_TOKEN = ("clip_vision_model", Blip2VisionConfig.model_type)


class Seen(NamedTuple):
    """Tokens of the tower that see each other in a layer, n of each of g pictures or windows."""

    query: Tensor
    """FloatTensor [g, heads, n, D], scaled."""
    key: Tensor
    """FloatTensor [g, heads, n, D]."""
    of: int
    """Tokens of a whole picture, n or, if these are windows, more."""


@dataclass(frozen=True)
class Tower:
    """The tower of one loaded model, and the projector behind it.

    All its tokens stand in a row, picture by picture; a picture is what it sees by itself, an image or a
    tile.
    """

    module: nn.Module
    """Called with `pixel_values` [images, channels, height, width]."""
    projector: nn.Module
    """Features of the tower [images, n, width] -> visual features [images, n, hidden]."""
    feature_layer: Any
    """The config's `vision_feature_layer`: one or several of the tower's hidden states."""
    patch_size: int
    cropped: int
    """Tokens of the tower, from the first on, that are no features."""
    connector: Any = None
    """A `Connector` in the projector's place, whose visual tokens stand for no patch each; else None."""
    patches: int = 1
    """Patches that the projector makes one token of."""

    @property
    def ordered(self) -> bool:
        """Whether it is one of those whose features are known to be its patches, in their order."""
        return self.kind in TOWERS

    def connector_macs(self) -> int:
        """Return the multiply-accumulates of the connector's last call."""
        projector: Any = self.projector
        macs: int = projector.macs()
        return macs

    @property
    def kind(self) -> str:
        """The vision tower's model type, empty if it does not say."""
        return getattr(getattr(self.module, "config", None), "model_type", "")

    @property
    def layers(self) -> Sequence[Any]:
        """Layers of the vision tower, first to last."""
        tower: Any = self.module
        layers: Sequence[Any] = getattr(tower, "vision_model", tower).encoder.layers
        return layers

    @property
    def projected_layer(self) -> int | None:
        """The layer of the tower, counted from 0, whose output the projector reads; None for several."""
        states = self.feature_layer
        if not isinstance(states, int):
            return None
        return (states if states >= 0 else len(self.layers) + 1 + states) - 1

    def layer(self, place: TowerPlace) -> int | None:
        """Return which of its layers is meant; see `tower_layer`."""
        return tower_layer(place, len(self.layers), self.projected_layer)

    @property
    def class_tokens(self) -> int:
        """Tokens that the vision tower puts before those of the patches."""
        return int(self.kind in _WITH_CLASS_TOKEN)

    def seen(self, layer: int, states: Tensor, inputs: Mapping[str, Any]) -> list[Seen]:
        """Return the queries and keys of a layer, for its input states, as `hidden_states` of transformers
        has them, in the order of the tower's tokens. `inputs` are the arguments of `get_image_features`.
        """
        return [Seen(*self.rows(layer, states), of=states.shape[1])]

    def project(self, features: Tensor) -> Tensor:
        """Return features [B, n, patches x width], a token's patches side by side, as [B, n, hidden]."""
        projected: Tensor = self.projector(features)
        return projected

    def rows(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled queries, and the keys, of a tower layer (FloatTensor [images, heads, tokens, D])
        for its input states [images, tokens, width].
        """
        block = self.layers[layer]
        attention, normed = block.self_attn, block.layer_norm1(states)
        query, key = (
            part(normed).view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj)
        )
        return query * attention.scale, key

    def attention(self, layer: int, states: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the first half of a tower layer: states [images, tokens, width] after its attention, and the
        keys of that (FloatTensor [images, heads, tokens, D]).

        `bias` [images, tokens] is added to the logits of each key.
        """
        block = self.layers[layer]
        attention, normed = block.self_attn, block.layer_norm1(states)
        query, key, value = (
            part(normed).view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mask = None if bias is None else bias[:, None, None].to(query.dtype)
        found = scaled_dot_product_attention(query, key, value, mask, scale=attention.scale)
        return states + attention.out_proj(found.transpose(1, 2).flatten(2)), key

    def feed_forward(self, layer: int, states: Tensor) -> Tensor:
        """Return the second half of a tower layer, for states [images, tokens, width] after its attention."""
        block = self.layers[layer]
        found: Tensor = states + block.mlp(block.layer_norm2(states))
        return found

    def macs(self, layer: int, attending: int, feeding: int) -> int:
        """Return the multiply-accumulates of a tower layer on an image, with so many tokens in its attention
        and so many in its feed-forward half.
        """
        block = self.layers[layer]
        first, second = (
            sum(weight.numel() for weight in half.parameters() if weight.dim() == 2)
            for half in (block.self_attn, block.mlp)
        )
        width = block.self_attn.embed_dim
        found: int = attending * first + 2 * attending**2 * width + feeding * second
        return found

    def norm(self, states: Tensor) -> Tensor:
        """Return states of the vision tower [..., width] as its last norm leaves them."""
        tower: Any = self.module
        found: Tensor = getattr(tower, "vision_model", tower).post_layernorm(states)
        return found

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """Return rows and columns of the patches of images [images, channels, height, width]."""
        height, width = pixels.shape[-2:]
        return height // self.patch_size, width // self.patch_size

    def positions(self, grid: tuple[int, int], places: int) -> Tensor:
        """LongTensor [places, 2]: rows and columns of an image's tokens; -1 for a class token, in front."""
        rows, columns = grid
        index, width = torch.arange(places) - (places - rows * columns), max(1, columns)
        found = torch.stack([index // width, index % width], dim=1)
        return found.masked_fill((index < 0)[:, None], -1)
