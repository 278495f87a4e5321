"""The task of a testbed model with a windowed tower and merged patches, on images of several sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLDecoderLayer,
    apply_rotary_pos_emb_vision,
)

from dyrate.errors import DyrateError
from dyrate.testbed.models.architecture import MergedSize, size_of
from dyrate.testbed.models.packing import PackedBatch, branch_mask
from dyrate.testbed.models.qwen import build_model, build_processor, save_processor
from dyrate.testbed.models.qwen_packing import MERGE, PATCH, WINDOW, Layout, MergedPacker, grids_of
from dyrate.testbed.models.recipe import ModelRecipe
from dyrate.testbed.models.task import Seen, Task
from dyrate.testbed.models.tokenizer import CHATML

Runs = Sequence[tuple[int, int]]
"""(stretches, patches of each), one after another: patches attend within their stretch."""


class MergedTask(Task):
    """As a LLaVA's. CLIP's loss compares a caption with the mean of an image's patches, as the tower has no
    class token, and its text tower is not kept: no method knows how to ask such a tower.
    """

    dialogue = CHATML
    packer_class = MergedPacker

    def __init__(self, recipe: ModelRecipe, device: torch.device) -> None:
        if recipe.least_spacing != 1:
            raise DyrateError(
                f"least_spacing: {recipe.least_spacing:g}: positions of three axes cannot stand closer than 1"
            )
        super().__init__(recipe, device)
        self._layouts: dict[int, Layout] = {}
        self._block: Any = block

    def _build(self) -> tuple[Any, Any]:
        size = size_of(self.recipe.model)
        assert isinstance(size, MergedSize)
        return build_processor(self.tokenizer), build_model(size, self.tokenizer, self.recipe.seed)

    def eyes(self) -> list[nn.Parameter]:
        """Return the parameters of both towers, and of what compares them; the merger is none of them."""
        visual = self.model.model.visual
        return [*visual.patch_embed.parameters(), *visual.blocks.parameters(), *self.clip.parameters()]

    def compile(self) -> None:
        """Compile the decoder's layers and the tower's, each kind once."""
        for module in self.model.modules():
            if isinstance(module, Qwen2_5_VLDecoderLayer):
                module.compile()
        self._block = torch.compile(block)

    def see(self, batch: PackedBatch) -> Seen:
        """Run the tower as transformers does, but all windows at once, and all images of one size."""
        visual = self.model.model.visual
        layout = self.layout(len(batch.input_ids))
        patches = (WINDOW // PATCH) ** 2
        windows = ((len(layout.places) // patches, patches),)
        # The two pictures that a kernel of two points in time sees are the same one.
        kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
        states = linear(self.pixels(batch), kernel)
        angles = visual.rotary_pos_emb(states, layout.places)
        for number, part in enumerate(visual.blocks):
            whole = number in visual.fullatt_block_indexes
            states = self._block(part, states, angles, layout.runs if whole else windows)
        stretches = torch.split(states, [count * length for count, length in layout.runs])
        means = [part.view(*run, -1).mean(1) for run, part in zip(layout.runs, stretches, strict=True)]
        return Seen(states, torch.cat(means))

    def answer(self, batch: PackedBatch, features: Tensor) -> Tensor:
        """Return the logits on a packed batch, for the last layer's states of all its patches."""
        words = self.model.get_input_embeddings()(batch.input_ids)
        layout, first = self.layout(len(words)), batch.first_visual_token
        merged = self.model.model.visual.merger(features)[torch.argsort(layout.windows)].to(words.dtype)
        runs = [(count, length // MERGE**2) for count, length in layout.runs]
        parts = zip(
            runs,
            words.split([count for count, _ in runs]),
            merged.split([count * length for count, length in runs]),
            strict=True,
        )
        rows = [
            torch.cat([own[:, :first], part.unflatten(0, run), own[:, first + run[1] :]], dim=1)
            for run, own, part in parts
        ]
        logits: Tensor = self.model(
            inputs_embeds=torch.cat(rows),
            attention_mask=branch_mask(batch.segments),
            position_ids=batch.position_ids,
            use_cache=False,
        ).logits
        return logits

    def pixels(self, batch: PackedBatch) -> Tensor:
        """Return the image processor's pixel values of one point in time, float [patches, 147]."""
        values = batch.images.float().view(len(batch.images), 3, -1) / 255
        return ((values - self._mean[:, None]) / self._std[:, None]).flatten(1)

    def layout(self, rows: int) -> Layout:
        """Return where the patches of a batch of so many rows belong, on this task's device."""
        if rows not in self._layouts:
            runs, *places = Layout.of(grids_of(rows))
            self._layouts[rows] = Layout(runs, *(place.to(self.device) for place in places))
        return self._layouts[rows]

    def save(self, folder: Path) -> None:
        """Write the model and its processor, in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.half().save_pretrained(folder)
        save_processor(self.processor, folder)


def block(part: Any, states: Tensor, angles: tuple[Tensor, Tensor], runs: Runs) -> Tensor:
    """Return what a layer of the tower makes of states [patches, width], which attend within their run."""
    states = states + part.attn.proj(_attend(part.attn, part.norm1(states), angles, runs))
    found: Tensor = states + part.mlp(part.norm2(states))
    return found


def _attend(attention: Any, states: Tensor, angles: tuple[Tensor, Tensor], runs: Runs) -> Tensor:
    query, key, value = attention.qkv(states).unflatten(1, (3, attention.num_heads, -1)).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *angles)
    found, start = [], 0
    for count, length in runs:
        end = start + count * length
        own, others, read = (
            part[start:end].unflatten(0, (count, length)).transpose(1, 2) for part in (query, key, value)
        )
        attended = scaled_dot_product_attention(own, others, read, scale=attention.scaling)
        found.append(attended.transpose(1, 2).flatten(0, 1).flatten(1))
        start = end
    return torch.cat(found)
