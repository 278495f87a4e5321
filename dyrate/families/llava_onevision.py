"""LLaVA-OneVision: as LLaVA-NeXT by another tower, and of several images of a prompt none in tiles."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dyrate.families.llava_next import LlavaNext


class LlavaOnevision(LlavaNext):
    """Where the tiles' grid would be larger than nine images, it is shrunk: a token is then no patch at all.
    Methods that read the tower take it for the patch that it is nearest to.

    V counts what is left of it.
    """

    name = "llava_onevision"
    models = ("LlavaOnevisionForConditionalGeneration",)
    text_models = ("qwen2",)
    inputs = ("pixel_values", "image_sizes", "batch_num_images")
    answer_cue = "assistant"

    def tiles(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return of each image in how many pieces it is encoded: one, if its prompt has several."""
        found, of_prompts = super().tiles(inputs), inputs.get("batch_num_images")
        if of_prompts is None:
            return found
        alone = [count == 1 for count in of_prompts.tolist() for _ in range(count)]
        return [count if tiled else 1 for count, tiled in zip(found, alone, strict=True)]

    def _packed(self, places: Tensor, size: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        owner = self.encoder_owner
        ratio = inputs.get("vision_aspect_ratio") or owner.config.vision_aspect_ratio
        packed, _ = owner.pack_image_features(
            [places], size[None], image_newline=-torch.ones(2), vision_aspect_ratio=ratio
        )
        found: Tensor = packed[0]
        return found
