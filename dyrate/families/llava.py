"""LLaVA-1.5: one square of patches for an image, each of them a visual token."""

from typing import Any

from transformers import AutoModel, Blip2VisionConfig, Blip2VisionModel

from dyrate.families.family import Family

# LLaMA-VID's tower, EVA ViT-g, which transformers has as BLIP-2's, and finds for a LLaVA only if it is told.
AutoModel.register(Blip2VisionConfig, Blip2VisionModel, exist_ok=True)


class Llava(Family):
    """Also those whose projector is another connector: see `dyrate.connectors`."""

    name = "llava"
    models = ("LlavaForConditionalGeneration",)

    @classmethod
    def of(cls, model: Any) -> Family:
        """Return the parts of a model."""
        text = model.model.language_model
        return cls(
            layers=tuple(text.layers[: text.config.num_hidden_layers]),
            text_config=text.config,
            embed=text.embed_tokens,
            norm=text.norm,
            rotary=text.rotary_emb,
            encoder_owner=model.model,
            vision_tower=model.model.vision_tower,
            projector=model.model.multi_modal_projector,
            feature_layer=model.config.vision_feature_layer,
            patch_size=model.config.vision_config.patch_size,
            cropped=int(model.config.vision_feature_select_strategy == "default"),
            image_token_id=model.config.image_token_id,
            connector=getattr(model.model.multi_modal_projector, "connector", None),
        )
