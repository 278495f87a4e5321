"""InternVL 3 and 3.5 in transformers' own layout (`-hf`): tiles of the image, the whole one last."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from dyrate.families.family import Family, matrices, raster
from dyrate.families.tower import Tower


class InternTower(Tower):
    """InternViT: CLIP's shape by other names, and one norm over all heads where queries and keys have one."""

    @property
    def layers(self) -> Sequence[Any]:
        """Layers of the vision tower, first to last."""
        tower: Any = self.module
        layers: Sequence[Any] = tower.encoder.layer
        return layers

    @property
    def ordered(self) -> bool:
        """Whether features are its patches in a known order."""
        return True

    @property
    def class_tokens(self) -> int:
        """Tokens that the vision tower puts before those of the patches."""
        return 1

    def rows(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled queries, and the keys, of a layer, as `Tower.rows` does."""
        block = self.layers[layer]
        attention, normed = block.attention, block.layernorm_before(states)
        query, key = (
            norm(part(normed)).view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)
            for part, norm in (
                (attention.q_proj, attention.q_norm),
                (attention.k_proj, attention.k_norm),
            )
        )
        return query * attention.scale, key


class InternVL(Family):
    """Each tile counts as an image of its own: what says which belong together is text of the prompt.

    A visual token is 2 x 2 patches of a tile, put together behind the tower; V counts tokens of all tiles. To
    methods that read the tower a token has the mean of its patches' attention and keys; the class token has
    no token of its own.
    """

    name = "internvl"
    models = ("InternVLForConditionalGeneration",)
    text_models = ("qwen2", "qwen3")
    token = "2 x 2 patches of a tile"
    answer_cue = "assistant"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.tower = InternTower(
            module=self.encoder,
            projector=model.model.multi_modal_projector,
            feature_layer=model.config.vision_feature_layer,
            patch_size=model.config.vision_config.patch_size[0],
            cropped=int(model.config.vision_feature_select_strategy == "default"),
            patches=round(1 / model.config.downsample_ratio) ** 2,
        )

    def sources(self, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Tensor]:
        """Return the square of patches that each token is made of, row by row."""
        found, side = [], isqrt(self.tower.patches)
        for tile, count in enumerate(tokens):
            index = torch.arange(count * side**2).view(isqrt(count), side, isqrt(count), side)
            patches = index.transpose(1, 2).reshape(count, -1) + tile * (count * side**2 + 1) + 1
            found.append(torch.cat([torch.full((count, 1), tile), patches], dim=1))
        return found

    def places(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the square of each tile."""
        return [raster(isqrt(len(tile)), isqrt(len(tile))) for tile in features]

    def shown(self, places: Sequence[Tensor]) -> Tensor:
        """Return those of the last tile, which is the whole image."""
        tokens = torch.cat(list(places))[:, 1:].clone()
        tokens[: len(tokens) - len(places[-1])] = -1
        return tokens

    def encoder_macs(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> int:
        """Return those of the tower and the projector on all tiles."""
        tower, config = self.encoder_owner.vision_tower, self.encoder_owner.config
        embed, layers = tower.embeddings.patch_embeddings, tower.encoder.layer
        height, width = inputs["pixel_values"].shape[-2:]
        patches: int = height // embed.patch_size[0] * (width // embed.patch_size[1])
        tile: int = patches * matrices(embed) + (patches + 1) * sum(map(matrices, layers))
        tile += 2 * len(layers) * (patches + 1) ** 2 * config.vision_config.hidden_size
        tile += int(patches * config.downsample_ratio**2) * matrices(self.encoder_owner.multi_modal_projector)
        return len(features) * tile
