"""Qwen2.5-VL: images of any size, merged patches, positions of three axes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from dyrate.errors import DyrateError
from dyrate.families.family import Family, matrices, raster
from dyrate.families.tower import Seen, Tower


class QwenTower(Tower):
    """A tower whose tokens stand one after the other, those of a window together, and are turned by RoPE."""

    @property
    def layers(self) -> Sequence[Any]:
        """Layers of the vision tower, first to last."""
        tower: Any = self.module
        layers: Sequence[Any] = tower.blocks
        return layers

    @property
    def ordered(self) -> bool:
        """Whether features are its patches in a known order."""
        return True

    @property
    def class_tokens(self) -> int:
        """There is none."""
        return 0

    def windows(self, grids: Tensor) -> tuple[Tensor, list[int]]:
        """Return which merged patches stand one after the other (LongTensor [tokens]), and the lengths of
        windows, in patches. `grids` are the images' (LongTensor [images, 3]).
        """
        visual: Any = self.module
        if not hasattr(visual, "window_size"):
            lengths: list[int] = grids.prod(dim=1).tolist()
            return torch.arange(sum(lengths) // self.patches), lengths
        index, ends = get_vision_window_index(
            grids, visual.spatial_merge_size, visual.window_size, visual.patch_size
        )
        return index, ends.diff().tolist()

    def seen(self, layer: int, states: Tensor, inputs: Mapping[str, Any]) -> list[Seen]:
        """Return queries and keys of each window or image, turned by their places."""
        visual: Any = self.module
        block, grids = self.layers[layer], inputs["image_grid_thw"].cpu()
        whole: list[int] = grids.prod(dim=1).tolist()
        index, lengths = self.windows(grids)
        if layer in getattr(visual, "fullatt_block_indexes", range(len(self.layers))):
            lengths = whole
        places = get_vision_position_ids(grids, visual.spatial_merge_size)
        places = places.view(-1, self.patches, 2)[index].flatten(0, 1).to(states.device)
        weight, bias = (part.chunk(3) for part in (block.attn.qkv.weight, block.attn.qkv.bias))
        normed, angles = block.norm1(states), visual.rotary_pos_emb(states, places)
        query, key = apply_rotary_pos_emb_vision(
            *(
                linear(normed, weight[part], bias[part]).view(len(states), block.attn.num_heads, -1)
                for part in (0, 1)
            ),
            *angles,
        )
        found, images, left = [], iter(whole), 0
        for rows, keys in zip(query.split(lengths), key.split(lengths), strict=True):
            if not left:
                left = of = next(images)
            left -= len(rows)
            found.append(
                Seen(rows.transpose(0, 1)[None] * block.attn.scaling, keys.transpose(0, 1)[None], of)
            )
        return found

    def project(self, features: Tensor) -> Tensor:
        """Return features [B, n, patches x width] as the merger makes tokens of them, [B, n, hidden]."""
        projected: Tensor = self.projector(features.reshape(-1, features.shape[-1] // self.patches))
        return projected.view(*features.shape[:2], -1)


class Qwen25VL(Family):
    """A visual token is 2 x 2 patches of the image; V differs from image to image. To methods that read the
    tower it has the mean of its patches' attention and keys; in layers of windows a patch is seen by its own.

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
    tower: QwenTower

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        visual: Any = self.encoder
        self.tower = QwenTower(
            module=visual,
            projector=visual.merger,
            feature_layer=-1,
            patch_size=visual.patch_size,
            cropped=0,
            patches=visual.spatial_merge_size**2,
        )

    def sources(self, inputs: Mapping[str, Any], tokens: Sequence[int]) -> list[Tensor]:
        """Return the patches of each token, wherever windows have put them."""
        index, _ = self.tower.windows(inputs["image_grid_thw"].cpu())
        first = index.argsort()[:, None] * self.tower.patches
        images = torch.arange(len(tokens)).repeat_interleave(torch.tensor(tokens))
        found = torch.cat([images[:, None], first + torch.arange(self.tower.patches)], dim=1)
        return list(torch.split(found, list(tokens)))

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

    def positions(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Return those of text, of time, rows and columns, [4, batch, columns], and leave none behind."""
        before = self.encoder_owner.rope_deltas
        found: Tensor = model._prepare_position_ids_for_generation(inputs["input_ids"], {**inputs})
        self.encoder_owner.rope_deltas = before
        return found

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
