"""InternVL 3 and 3.5 in transformers' own layout (`-hf`): tiles of the image, the whole one last."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from torch import Tensor

from dyrate.families.family import Family, matrices, raster


class InternVL(Family):
    """Each tile counts as an image of its own: what says which belong together is text of the prompt.

    A visual token is 2 x 2 patches of a tile, put together behind the tower; V counts tokens of all tiles.
    """

    name = "internvl"
    models = ("InternVLForConditionalGeneration",)
    text_models = ("qwen2", "qwen3")
    token = "2 x 2 patches of a tile"
    answer_cue = "assistant"

    def places(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the square of each tile."""
        return [raster(isqrt(len(tile)), isqrt(len(tile))) for tile in features]

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
