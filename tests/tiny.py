"""A tiny random LLaVA in fp32 and inputs for it: every part of the architecture, no download."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)

IMAGE, PAD, EOS, BOS = 60, 0, 1, 2
VISUAL_TOKENS = 16
NUM_LAYERS = 6

_TEXT_CONFIGS: dict[str, type] = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def tiny_llava(
    seed: int = 0,
    *,
    text: str = "llama",
    kv_heads: int = 4,
    num_layers: int = NUM_LAYERS,
    image_size: int = 16,
    eos: int | None = None,
) -> LlavaForConditionalGeneration:
    """Random weights, large enough that attention is far from uniform: scores differ, pruning shows."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"sliding_window": None} if text == "mistral" else {}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=image_size,
            patch_size=4,
        ).to_dict(),
        text_config=_TEXT_CONFIGS[text](
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            vocab_size=64,
            max_position_embeddings=512,
            initializer_range=0.25,
            **options,
        ).to_dict(),
        image_token_id=IMAGE,
        image_seq_length=(image_size // 4) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "vision_tower" in name or "projector" in name:
                parameter.copy_(
                    torch.randn_like(parameter) * 0.3 + ("norm" in name and name.endswith("weight"))
                )
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = eos
    return model.eval()


def tiny_inputs(
    rows: list[int] | None = None, *, images: list[int] | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """A left-padded batch: `rows` are lengths of the questions, `images` the number of images per row."""
    rows = rows or [7]
    images = images or [1] * len(rows)
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> list[int]:
        return torch.randint(3, IMAGE, (length,), generator=generator).tolist()

    prompts, pixels = [], []
    for length, count in zip(rows, images, strict=True):
        prompt = [BOS, *text(3)]
        for _ in range(count):
            prompt += [IMAGE] * VISUAL_TOKENS + text(2)
            pixels.append(torch.randn(3, 16, 16, generator=generator))
        prompts.append(prompt + text(length))
    width = max(map(len, prompts))
    inputs = {
        "input_ids": torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts]),
        "attention_mask": torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        ),
    }
    if pixels:
        inputs["pixel_values"] = torch.stack(pixels)
    return inputs


def row_of(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch by itself, without its padding."""
    keep = inputs["attention_mask"][row].bool()
    ids = inputs["input_ids"]
    counts = (ids == IMAGE).sum(dim=1) // VISUAL_TOKENS
    start = int(counts[:row].sum())
    alone = {
        "input_ids": ids[row : row + 1, keep],
        "attention_mask": inputs["attention_mask"][row : row + 1, keep],
    }
    if counts[row]:
        alone["pixel_values"] = inputs["pixel_values"][start : start + int(counts[row])]
    return alone
