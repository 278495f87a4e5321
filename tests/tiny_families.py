"""Tiny random models of every family that token reduction knows, and batches for them, in fp32; no download.

Rows of a batch have images of different sizes, two images, or none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.tiny import BOS, IMAGE, PAD

VIDEO = 61
Row = dict[str, Tensor]
Pictures = Sequence[tuple[int, int, int]]
"""Rows and columns of tokens, and how many of the last rows a newline follows, picture by picture."""

_TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": 1,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 4,
    "image_size": 16,
}
_TILED = {"image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}


def _tiles(sizes: Sequence[tuple[int, int]], generator: torch.Generator) -> Row:
    """One image as LLaVA-NeXT has it: as many tiles as it needs, and its size."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    pinpoints = _TILED["image_grid_pinpoints"]
    counts = [image_size_to_num_patches(torch.tensor(size), pinpoints, 16) for size in sizes]
    pixels = torch.zeros(len(sizes), max(counts), 3, 16, 16)
    for image, count in zip(pixels, counts, strict=True):
        image[:count] = torch.randn(count, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


@dataclass(frozen=True)
class Tiny:
    """One family: its config, and how the images of a row come."""

    name: str
    config: dict[str, Any]
    images: Callable[[Sequence[tuple[int, int]], torch.Generator], Row]
    """(sizes of a row's images, ...) -> what the processor makes of them."""
    sizes: Mapping[tuple[int, int], Pictures]
    """Sizes of images, in units of its own, and the pictures that each becomes."""

    @cached_property
    def model(self) -> Any:
        """Random weights, large enough that attention is far from uniform: scores differ, pruning shows."""
        torch.manual_seed(0)
        config = AutoConfig.for_model(image_token_id=IMAGE, **self.config)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                norm = "norm" in name and name.endswith("weight")
                text = "language_model" in name or "lm_head" in name
                parameter.copy_(torch.randn_like(parameter) * (0.25 if text and not norm else 0.3) + norm)
        model.generation_config.pad_token_id = PAD
        model.generation_config.eos_token_id = None
        return model.eval()

    @cached_property
    def subject(self) -> "Subject":
        """A batch of four rows with one, two, no and one image."""
        generator, sizes = torch.Generator().manual_seed(0), cycle(self.sizes)
        of_rows = [[next(sizes) for _ in range(count)] for count in (1, 2, 0, 1)]
        rows = [
            self._row(length, own, generator) for length, own in zip((7, 3, 20, 11), of_rows, strict=True)
        ]
        pictures = [[picture for size in own for picture in self.sizes[size]] for own in of_rows]
        return Subject(self.model, rows, batch(rows), pictures)

    def _row(self, length: int, sizes: list[tuple[int, int]], generator: torch.Generator) -> Row:
        def text(count: int) -> list[int]:
            return torch.randint(3, IMAGE, (count,), generator=generator).tolist()

        row = self.images(sizes, generator) if sizes else {}
        prompt = [BOS, *text(3)]
        for count in self._counts(row, len(sizes)):
            prompt += [IMAGE] * count + text(2)
        ids = torch.tensor([prompt + text(length)])
        row |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.config["model_type"].startswith("qwen"):
            row["mm_token_type_ids"] = (ids == IMAGE).int()
        return row

    def _counts(self, row: Row, images: int) -> list[int]:
        """Visual tokens of each image."""
        if not images:
            return []
        with torch.no_grad():
            features = self.model.model.get_image_features(**row).pooler_output
        tiles = list(map(len, features))
        step = len(tiles) // images  # InternVL's are those of tiles
        return [sum(tiles[i : i + step]) for i in range(0, len(tiles), step)]


@dataclass(frozen=True)
class Subject:
    """A model, prompts by themselves, and the same ones as one batch."""

    model: Any
    rows: Sequence[Row]
    inputs: Row
    pictures: Sequence[Pictures]
    """Of each row."""

    @property
    def visual(self) -> list[int]:
        """Visual tokens of each row."""
        return [int((row["input_ids"] == IMAGE).sum()) for row in self.rows]


def batch(rows: Sequence[Row]) -> Row:
    """Rows as one left-padded batch."""
    width = max(row["input_ids"].shape[1] for row in rows)
    found: Row = {}
    for name in sorted({name for row in rows for name in row}):
        parts = [row[name] for row in rows if name in row]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            parts = [pad(part, (width - part.shape[1], 0)) for part in parts]
        elif parts[0].dim() == 5:
            most = max(part.shape[1] for part in parts)
            parts = [pad(part, (0, 0, 0, 0, 0, 0, 0, most - part.shape[1])) for part in parts]
        found[name] = torch.cat(parts)
    return found


def encoder_inputs(model: Any, row: Row) -> dict[str, Tensor]:
    """What of a prompt's inputs the vision encoder gets."""
    wanted = signature(model.model.get_image_features).parameters
    return {name: value for name, value in row.items() if name in wanted}


def _next(text: str, **options: Any) -> Tiny:
    return Tiny(
        f"llava_next-{text}",
        {
            "model_type": "llava_next",
            "text_config": {**_TEXT, "model_type": text, **options},
            "vision_config": {**_VISION, "model_type": "clip_vision_model", "projection_dim": 16},
            "image_seq_length": 16,
            **_TILED,
        },
        _tiles,
        sizes={
            (20, 30): [(4, 4, 0), (6, 8, 6)],
            (30, 16): [(4, 4, 0), (8, 4, 8)],
            (16, 16): [(4, 4, 0), (4, 4, 4)],
        },
    )


def _internvl(text: str, **options: Any) -> Tiny:
    def tiles(sizes: Sequence[tuple[int, int]], generator: torch.Generator) -> Row:
        count = sum(rows * columns for rows, columns in sizes)
        return {"pixel_values": torch.randn(count, 3, 32, 32, generator=generator)}

    square = (4, 4, 0)
    vision = {**_VISION, "image_size": [32, 32], "patch_size": [4, 4]}
    return Tiny(
        f"internvl-{text}",
        {
            "model_type": "internvl",
            "text_config": {**_TEXT, "model_type": text, **options},
            "vision_config": vision,
            "image_seq_length": 16,
            "downsample_ratio": 0.5,
            "tie_word_embeddings": False,
        },
        tiles,
        sizes={(1, 2): [square] * 2, (1, 1): [square], (3, 1): [square] * 3},
    )


def _onevision() -> Tiny:
    def tiles(sizes: Sequence[tuple[int, int]], generator: torch.Generator) -> Row:
        row = _tiles(sizes, generator)
        if len(sizes) > 1:
            row["pixel_values"] = row["pixel_values"][:, :1]
        return {**row, "batch_num_images": torch.tensor([len(sizes)])}

    return Tiny(
        "llava_onevision",
        {
            "model_type": "llava_onevision",
            "text_config": {**_TEXT, "model_type": "qwen2"},
            "vision_config": {**_VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
            "image_seq_length": 16,
            "video_token_id": VIDEO,
            "vision_aspect_ratio": "anyres_max_9",
            **_TILED,
        },
        tiles,
        sizes={
            (20, 30): [(4, 4, 0), (6, 8, 6)],
            (30, 16): [(4, 4, 1)],  # one of two in a prompt: not in tiles
            (16, 16): [(4, 4, 1)],
        },
    )


def _qwen(version: str, text: dict[str, Any], vision: dict[str, Any]) -> Tiny:
    def patches(sizes: Sequence[tuple[int, int]], generator: torch.Generator) -> Row:
        grids = torch.tensor([(1, *size) for size in sizes])
        pixels = torch.randn(int(grids.prod(dim=1).sum()), 96, generator=generator)
        return {"pixel_values": pixels, "image_grid_thw": grids}

    return Tiny(
        version,
        {
            "model_type": version,
            "text_config": {**_TEXT, **text},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "patch_size": 4,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "out_hidden_size": 32,
                **vision,
            },
            "video_token_id": VIDEO,
            "tie_word_embeddings": False,
        },
        patches,
        sizes={
            (8, 12): [(4, 6, 0)],
            (12, 4): [(6, 2, 0)],
            (4, 8): [(2, 4, 0)],
            (8, 8): [(4, 4, 0)],
        },
    )


_ROPE = _TEXT["rope_parameters"]
_FAMILIES = (
    _next("llama"),
    _next("mistral", sliding_window=None),
    _internvl("qwen2"),
    _internvl("qwen3", head_dim=8),
    _onevision(),
    _qwen(
        "qwen2_5_vl",
        {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
        {"depth": 4, "window_size": 16, "fullatt_block_indexes": [1, 3]},
    ),
    _qwen(
        "qwen3_vl",
        {"head_dim": 8, "rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True}},
        {"depth": 5, "num_position_embeddings": 16, "deepstack_visual_indexes": [1, 2, 3]},
    ),
)
TINY = {tiny.name: tiny for tiny in _FAMILIES}
