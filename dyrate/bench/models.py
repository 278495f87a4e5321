"""What is measured: a checkpoint, or a model of a published shape with random weights, and prompts for it."""

from typing import Any

import torch

from dyrate.bench.shapes import SHAPES, image_lengths, picture, random_config
from dyrate.bench.shapes import named as named_shape
from dyrate.cost.shapes import ModelShape
from dyrate.errors import DyrateError

__all__ = ["SHAPES", "inputs", "loaded_model", "named_shape", "prepared", "random_model", "visual_tokens"]

_PAD, _IMAGE = 0, 3


def random_model(shape: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a model with random weights, made on the device itself: a LLaVA of a `ModelShape`, or whatever
    the config of another family says.
    """
    from transformers import AutoModelForImageTextToText

    config = random_config(shape, _IMAGE) if isinstance(shape, ModelShape) else shape
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config)
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


@torch.no_grad()
def visual_tokens(model: Any, visual: int | None = None) -> int:
    """Return how many tokens a prompt's random image becomes, of whose number `visual` is what was asked for.

    Raises `DyrateError` where the model's images have another number.
    """
    encoded = model.model.get_image_features(**_on_device(model, picture(model.config, visual, 0)))
    found = sum(map(len, encoded.pooler_output))
    if visual is not None and found != visual:
        raise DyrateError(f"--visual {visual}: an image becomes {found} tokens of this model")
    return found


@torch.no_grad()
def inputs(
    model: Any, batch: int, prompt: int, seed: int, visual: int | None = None
) -> dict[str, torch.Tensor]:
    """Return a batch of prompts of one length, each with its random image and random words around it.

    Raises `DyrateError` where a prompt has no room for its image, or images, and the words around them.
    """
    config = model.config
    count = visual_tokens(model, visual)
    pictures = [picture(config, visual, seed + row) for row in range(batch)]
    lengths = image_lengths(config, pictures[0], count)
    words = prompt - count
    if words <= len(lengths):
        raise DyrateError(
            f"--prompt {prompt}: too short for {count} visual tokens and {len(lengths) + 1} words around them"
        )
    generator = torch.Generator().manual_seed(seed)
    # No word may be the image token: half of the vocabulary lies behind it or before it.
    image, size = config.image_token_id, config.text_config.vocab_size
    low, high = (image + 1, size) if image < size // 2 else (_PAD + 1, image)
    text = torch.randint(low, high, (batch, words), generator=generator)
    before = min(words // 8, words - len(lengths))
    parts = [text[:, :before]]
    for column, length in enumerate(lengths, start=before):
        parts += [torch.full((batch, length), image), text[:, column : column + 1]]
    ids = torch.cat([*parts, text[:, before + len(lengths) :]], dim=1)
    made = {name: torch.cat([one[name] for one in pictures]) for name in pictures[0]}
    if "image_grid_thw" in made:
        made["mm_token_type_ids"] = (ids == image).int()
    made |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return _on_device(model, made)


def _on_device(model: Any, made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Move them there; pixels take the model's dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in made.items()
    }
