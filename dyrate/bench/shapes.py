"""Models of published sizes by the names that the command line takes, and images for them.

LLaVA-1.5's shapes are the paper's. The sizes of the other families are those of their published configs.
"""

from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
from torch import Generator, Tensor

from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.errors import DyrateError

SHAPES = {name.lower(): shape for name, shape in LLAVA.items()}
"""The paper's models."""
LARGEST = 4096
"""Visual tokens of an image of free size: of more, a prompt has several images. A tower attends to all of an
image, so that its time goes by the square of the size."""
Picture = dict[str, Tensor]
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
_QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "llava-next-vicuna-7b": {
        "model_type": "llava_next",
        "text_config": {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
        },
        "vision_config": _CLIP,
        "image_token_index": 32000,
    },
    "llava-next-mistral-7b": {
        "model_type": "llava_next",
        "text_config": {
            "model_type": "mistral",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 32064,
            "max_position_embeddings": 32768,
            "sliding_window": None,
        },
        "vision_config": _CLIP,
        "image_token_index": 32000,
    },
    "llava-onevision-7b": {
        "model_type": "llava_onevision",
        "text_config": {
            "model_type": "qwen2",
            **_QWEN2_7B,
            "vocab_size": 152000,
            "max_position_embeddings": 32768,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
        "vision_aspect_ratio": "anyres_max_9",
    },
    "qwen2.5-vl-7b": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            **_QWEN2_7B,
            "vocab_size": 152064,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 3584,
        },
        "image_token_id": 151655,
        "video_token_id": 151656,
    },
    "qwen3-vl-8b": {
        "model_type": "qwen3_vl",
        "text_config": {
            **_QWEN3_8B,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
            "out_hidden_size": 4096,
        },
        "image_token_id": 151655,
        "video_token_id": 151656,
    },
    "internvl3.5-8b": {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen3", **_QWEN3_8B, "max_position_embeddings": 40960},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        "image_seq_length": 256,
        "image_token_id": 151671,
        "tie_word_embeddings": False,
    },
}


def named(name: str) -> Any:
    """Return a published shape, or the config of another family's model; a `DyrateError` names them all."""
    from transformers import AutoConfig

    if name.lower() in SHAPES:
        return SHAPES[name.lower()]
    if name.lower() in _CONFIGS:
        return AutoConfig.for_model(**_CONFIGS[name.lower()])
    raise DyrateError(f"--shape {name}: unknown; known: {', '.join([*SHAPES, *_CONFIGS])}")


def _square(config: Any, visual: int, draw: Generator) -> Picture:
    side = config.vision_config.image_size
    return {"pixel_values": torch.randn(1, 3, side, side, generator=draw)}


def _tiled(config: Any, visual: int, draw: Generator) -> Picture:
    """A square image that is given whole and in four tiles."""
    side = config.vision_config.image_size
    picture = {
        "pixel_values": torch.randn(1, 5, 3, side, side, generator=draw),
        "image_sizes": torch.tensor([[2 * side, 2 * side]]),
    }
    if config.model_type == "llava_onevision":
        picture["batch_num_images"] = torch.ones(1, dtype=torch.long)
    return picture


def _tiles(config: Any, visual: int, draw: Generator) -> Picture:
    height, width = config.vision_config.image_size
    count, rest = divmod(visual, config.image_seq_length)
    if rest or not count:
        raise DyrateError(f"--visual {visual}: this model's tiles have {config.image_seq_length} tokens each")
    return {"pixel_values": torch.randn(count, 3, height, width, generator=draw)}


def _grids(config: Any, visual: int, draw: Generator) -> Picture:
    """Images as near to squares as so many tokens allow, in as few and as equal parts as they fit into."""
    vision = config.vision_config
    images = -(-visual // LARGEST)
    grids = torch.tensor(
        [_square_grid(visual // images + (number < visual % images)) for number in range(images)]
    )
    grids[:, 1:] *= vision.spatial_merge_size
    numbers = 3 * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.randn(int(grids.prod(dim=1).sum()), numbers, generator=draw),
        "image_grid_thw": grids,
    }


def _square_grid(tokens: int) -> tuple[int, int, int]:
    rows = next(rows for rows in range(isqrt(tokens), 0, -1) if tokens % rows == 0)
    return 1, rows, tokens // rows


_PICTURES: dict[str, tuple[Callable[[Any, int, Generator], Picture], int]] = {
    "llava": (_square, 0),
    "llava_next": (_tiled, 0),
    "llava_onevision": (_tiled, 0),
    "internvl": (_tiles, 1280),
    "qwen2_5_vl": (_grids, 1024),
    "qwen3_vl": (_grids, 1024),
}
"""By type of model: how the image of a prompt is made, or its images, and of how many visual tokens, 0 where
that is not free."""


def picture(config: Any, visual: int | None, seed: int) -> Picture:
    """Return what the encoder gets of a prompt's random image, of `visual` tokens where they may be any."""
    make, usual = _PICTURES[config.model_type]
    return make(config, visual or usual, Generator().manual_seed(seed))


def image_lengths(config: Any, made: Picture, visual: int) -> list[int]:
    """Return how many of a prompt's visual tokens each of its images has: words stand between them."""
    if "image_grid_thw" not in made:
        return [visual]
    lengths: list[int] = (
        made["image_grid_thw"].prod(dim=1) // config.vision_config.spatial_merge_size**2
    ).tolist()
    return lengths


def random_config(shape: ModelShape, image: int) -> Any:
    """Return the config of a LLaVA model of a shape."""
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
        image_token_id=image,
        image_seq_length=vision.patches,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
