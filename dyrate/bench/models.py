"""What is measured: a checkpoint, or a model of a published shape with random weights."""

from math import isqrt
from typing import Any

import torch

from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.errors import DyrateError

SHAPES = {name.lower(): shape for name, shape in LLAVA.items()}
"""Published shapes by the names that the command line takes."""
_PAD, _IMAGE = 0, 3


def random_model(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a LLaVA model of a shape with random weights, made on the device itself."""
    from transformers import LlavaForConditionalGeneration

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(_config(shape))
    finally:
        torch.set_default_dtype(before)
    return prepared(model.to(dtype))


def loaded_model(path: str, device: torch.device, dtype: str, revision: str | None = None) -> Any:
    """Return a checkpoint's model."""
    from dyrate.evaluation.checkpoint import load_model, locate

    return prepared(load_model(locate(path, revision), device, dtype))


def prepared(model: Any) -> Any:
    """Let a model generate to the last asked token: every contender then takes as many steps."""
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = _PAD
    return model


def named_shape(name: str) -> ModelShape:
    """Return a published shape; a `DyrateError` names those there are."""
    try:
        return SHAPES[name.lower()]
    except KeyError:
        raise DyrateError(f"--shape {name}: unknown; known: {', '.join(SHAPES)}") from None


def inputs(model: Any, batch: int, prompt: int, seed: int) -> dict[str, torch.Tensor]:
    """Return a batch of prompts of one length, each with one random image and random words around it.

    Raises `DyrateError` where the image alone is longer than the prompt.
    """
    config = model.config
    visual = ModelShape.of(config).vision.patches
    words = prompt - visual
    if words < 2:
        raise DyrateError(f"--prompt {prompt}: too short for {visual} visual tokens and two words")
    generator = torch.Generator().manual_seed(seed)
    # No word may be the image token: half of the vocabulary lies behind it or before it.
    image, size = config.image_token_id, config.text_config.vocab_size
    low, high = (image + 1, size) if image < size // 2 else (_PAD + 1, image)
    text = torch.randint(low, high, (batch, words), generator=generator)
    before = words // 8
    ids = torch.cat([text[:, :before], torch.full((batch, visual), image), text[:, before:]], dim=1)
    side = config.vision_config.image_size
    pixels = torch.randn(batch, config.vision_config.num_channels, side, side, generator=generator)
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": pixels.to(model.device, model.dtype),
    }


def _config(shape: ModelShape) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    text, vision = shape.text, shape.vision
    patch = isqrt(vision.patch_inputs // 3)
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=vision.intermediate,
            num_hidden_layers=vision.layers,
            num_attention_heads=max(1, vision.hidden // 64),
            image_size=patch * isqrt(vision.patches),
            patch_size=patch,
        ).to_dict(),
        text_config=LlamaConfig(
            hidden_size=text.hidden,
            intermediate_size=text.intermediate,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            num_key_value_heads=text.kv_heads,
            head_dim=text.head_dim,
            vocab_size=text.vocabulary,
            max_position_embeddings=4096,
        ).to_dict(),
        image_token_id=_IMAGE,
        image_seq_length=vision.patches,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
