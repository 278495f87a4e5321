"""LLaVA-1.5: one square of patches for an image, each of them a visual token."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModel, Blip2VisionConfig, Blip2VisionModel

from dyrate.families.family import Family
from dyrate.families.tower import Tower

# LLaMA-VID's tower, EVA ViT-g, which transformers has as BLIP-2's, and finds for a LLaVA only if it is told.
AutoModel.register(Blip2VisionConfig, Blip2VisionModel, exist_ok=True)


class Llava(Family):
    """Also those whose projector is another connector: see `dyrate.connectors`."""

    name = "llava"
    models = ("LlavaForConditionalGeneration",)
    inputs = ("pixel_values", "image_sizes", "vision_feature_layer", "vision_feature_select_strategy")

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        projector = model.model.multi_modal_projector
        self.tower = Tower(
            module=self.encoder,
            projector=projector,
            feature_layer=model.config.vision_feature_layer,
            patch_size=model.config.vision_config.patch_size,
            cropped=int(model.config.vision_feature_select_strategy == "default"),
            connector=getattr(projector, "connector", None),
        )

    def images(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor] | None:
        """Return the pixels of each image, but for a tower that packs images of several sizes."""
        known = self.tower.ordered or self.tower.connector is not None or len(features) == 1
        return super().images(inputs, features) if known else None

    def places(self, inputs: Mapping[str, Any], features: Sequence[Tensor]) -> list[Tensor]:
        """Return the grid that a connector made of each image's patches, if it is one."""
        grid: tuple[int, int] = self.tower.connector.grid or (0, 0)
        return [pad(self.tower.positions(grid, len(features[0])), (1, 0))] * len(features)
