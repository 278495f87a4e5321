"""LLaVA-NeXT: the image whole, then in tiles, without what pads them, a newline token after each row."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
)

from dyrate.families.family import Family, matrices, raster
from dyrate.families.tower import Tower


class LlavaNext(Family):
    """An image is two pictures, of which the second is the grid of all its tiles.

    V counts the tokens of both, newlines among them, after unpadding: so does every rate of a method that
    acts in the language model. To one that reads the tower each tile is a picture, of the tokens that
    unpadding left of it, and newlines stay.
    """

    name = "llava_next"
    models = ("LlavaNextForConditionalGeneration",)
    text_models: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
    pixels = ("images", "tiles", "channels", "height", "width")
    token = "a patch of the image whole, or of one of its tiles, or a newline"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.tower = Tower(
            module=self.encoder,
            projector=model.model.multi_modal_projector,
            feature_layer=model.config.vision_feature_layer,
            patch_size=model.config.vision_config.patch_size,
            cropped=int(model.config.vision_feature_select_strategy == "default"),
        )

    def tiles(self, inputs: Mapping[str, Any]) -> list[int]:
        """Return of each image in how many pieces it is encoded; the whole is one of them."""
        config = self.encoder_owner.config
        side = config.vision_config.image_size
        return [
            image_size_to_num_patches(size, config.image_grid_pinpoints, side)
            for size in inputs["image_sizes"]
        ]

    def images(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the pixels of each image without the padding that fills up the batch."""
        pixels, counts = inputs["pixel_values"], self.tiles(inputs)
        if pixels.dim() == 4:
            return list(pixels.split(counts))
        return [tiles[:count] for tiles, count in zip(pixels, counts, strict=True)]

    def places(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the grid of the whole, and that of the tiles; newlines are known by what they are."""
        newline = self.encoder_owner.image_newline
        return [self._places((of_image == newline.to(of_image)).all(dim=1).cpu()) for of_image in features]

    def _places(self, newline: Tensor) -> Tensor:
        vision = self.encoder_owner.config.vision_config
        side = vision.image_size // vision.patch_size
        count = side**2
        whole, rest = raster(side, side), newline[count:]
        if rest.sum() == len(rest):  # one newline after an image without tiles
            return torch.cat([whole, torch.tensor([[0, side - 1, -1]]).expand(len(rest), -1)])
        rows = int(rest.sum())
        width = len(rest) // rows
        tiled = raster(rows, width, picture=1)
        tiled[tiled[:, 2] == width - 1, 2] = -1
        return torch.cat([whole, tiled])

    def sources(self, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Tensor]:
        """Return the patch of each token; in a grid that was shrunk, the one that it is nearest to."""
        config = self.encoder_owner.config
        vision, pinpoints = config.vision_config, config.image_grid_pinpoints
        side = vision.image_size // vision.patch_size
        whole, found, start = raster(side, side)[:, 1:], [], 0
        for size, tiles in zip(inputs["image_sizes"], self.tiles(inputs), strict=True):
            columns = 1 if tiles == 1 else get_anyres_image_grid_shape(size, pinpoints, vision.image_size)[1]
            # The tiles' rows and columns go the way of their features.
            corners = [torch.tensor(divmod(tile, columns)) * side for tile in range(tiles - 1)]
            places = torch.stack([whole, *(whole + corner for corner in corners)]).float()
            row, column = self._packed(places, size, inputs)[side**2 :].round().long().unbind(dim=1)
            tile = 1 + row // side * columns + column // side
            rest = torch.stack([tile, row % side * side + column % side], dim=1)
            first = torch.stack([torch.zeros(side**2, dtype=torch.long), torch.arange(side**2)], dim=1)
            tile, patch = torch.cat([first, rest]).unbind(dim=1)
            patch = tile * (side**2 + self.tower.class_tokens) + patch + self.tower.class_tokens
            of_image = torch.stack([start + tile, start * (side**2 + self.tower.class_tokens) + patch], dim=1)
            newline = torch.cat([torch.zeros(side**2, dtype=torch.bool), row < 0])
            found.append(of_image.masked_fill(newline[:, None], -1))
            start += tiles
        return found

    def _packed(self, places: Tensor, size: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Return what is made of one image's tiles [tiles, patches, 2], [n, 2]; -1 at newlines."""
        packed, _ = self.encoder_owner.pack_image_features(
            [places], size[None], "default", image_newline=-torch.ones(2)
        )
        found: Tensor = packed[0]
        return found

    def question(self, instruction: str) -> str:
        """Return the question without what asks for the answer, in Vicuna's words or in Mistral's."""
        return super().question(instruction).removesuffix("[/INST]").strip()

    def encoder_macs(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> int:
        """Return those of the tower and the projector on all tiles."""
        return sum(self.tiles(inputs)) * tower_macs(self.encoder_owner)


def tower_macs(owner: Any) -> int:
    """Multiply-accumulates of a tower like CLIP's, and of the projector, for one square image or tile."""
    vision, layers = owner.config.vision_config, owner.vision_tower.encoder.layers
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens = patches + (vision.model_type == "clip_vision_model")
    around = matrices(owner.vision_tower.embeddings.patch_embedding) + matrices(owner.multi_modal_projector)
    pairs = 2 * len(layers) * tokens**2 * vision.hidden_size
    found: int = patches * around + tokens * sum(map(matrices, layers)) + pairs
    return found
