"""Qwen2.5-VL: images of any size, merged patches, positions of three axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dyrate.errors import DyrateError
from dyrate.families.family import Family, matrices, raster


class Qwen25VL(Family):
    """A visual token is 2 x 2 patches of the image; V differs from image to image.

    Time, row and column of a token turn parts of each head of their own: kept tokens keep all three.
    """

    name = "qwen2_5_vl"
    models = ("Qwen2_5_VLForConditionalGeneration",)
    text_models = ("qwen2_5_vl_text",)
    inputs = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    pixels = ("patches", "numbers")
    token = "2 x 2 patches of the image"
    axes = 3
    answer_cue = "assistant"

    def _encoder(self, owner: Any) -> nn.Module:
        encoder: nn.Module = owner.visual
        return encoder

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Also forget where the prompt before this one ended: without images, it would go on being heeded.

        Raises `DyrateError` for images without `mm_token_type_ids`, whose tokens would get positions of text.
        """
        super().begin(inputs)
        self.encoder_owner.rope_deltas = None
        images = bool((inputs["input_ids"] == self.image_token_id).any())
        if images and inputs.get("mm_token_type_ids") is None:
            raise DyrateError(
                f"mm_token_type_ids is missing, without which images of {self.name} get positions of text: "
                "pass on all that the processor makes (1 for image tokens, 0 for text)"
            )

    def images(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the patches of each image."""
        patches: list[int] = inputs["image_grid_thw"].prod(dim=1).tolist()
        return list(inputs["pixel_values"].split(patches))

    def places(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the grid of each image's merged patches."""
        side = self.encoder_owner.visual.spatial_merge_size
        return [
            raster(rows // side, columns // side) for _, rows, columns in inputs["image_grid_thw"].tolist()
        ]

    def encoder_macs(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> int:
        """Return those of the tower, whose attention stays within windows or images, and of its merger."""
        visual, grids = self.encoder_owner.visual, inputs["image_grid_thw"].tolist()
        patches: int = sum(time * rows * columns for time, rows, columns in grids)
        merged = sum(map(len, features)) * sum(map(matrices, self._mergers(visual)))
        pairs = sum(
            self._pairs(layer, rows, columns)
            for _, rows, columns in grids
            for layer in range(len(visual.blocks))
        )
        width: int = visual.config.hidden_size
        per_patch = matrices(visual.patch_embed) + sum(map(matrices, visual.blocks))
        macs: int = patches * per_patch + merged + 2 * width * pairs
        return macs

    def _mergers(self, visual: Any) -> list[nn.Module]:
        return [visual.merger]

    def _pairs(self, layer: int, rows: int, columns: int) -> int:
        """Pairs of query and key in a layer of the tower, on an image of so many patches."""
        visual = self.encoder_owner.visual
        if layer in visual.fullatt_block_indexes:
            return (rows * columns) ** 2
        side = visual.window_size // visual.patch_size
        heights, widths = (
            [min(side, length - start) for start in range(0, length, side)] for length in (rows, columns)
        )
        return sum((height * width) ** 2 for height in heights for width in widths)
