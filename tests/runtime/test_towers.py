"""Vision towers other than CLIP's: what runs on them, and what says that it does not."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralVisionConfig,
    SiglipVisionConfig,
)

from dyrate import VTW, FastV, NoReduction, ReductionMethod, load_method
from dyrate.errors import DyrateError

IMAGE, PATCHES = 60, 16
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
RANDOM = load_method({"name": "random", "layer": 2, "rate": 0.5})
DOWNSAMPLE = load_method({"name": "downsample", "rate": 0.75})
HIPRUNE = load_method({"name": "hiprune"})


def model_with(tower: Any) -> Any:
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, vocab_size=64
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


def inputs(rows: int) -> dict[str, Tensor]:
    ids = torch.tensor([[2, 5, *[IMAGE] * PATCHES, 7, 8, 9]] * rows)
    pixels = torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.mark.parametrize(
    "method", [NoReduction(), FastV(layer=1), VTW(layer=2), RANDOM, DOWNSAMPLE, HIPRUNE], ids=repr
)
def test_siglip_runs_under_every_kind_of_method(method: ReductionMethod) -> None:
    model = model_with(SiglipVisionConfig(**VISION))
    with method(model) as run:
        model.generate(**inputs(2), max_new_tokens=3, do_sample=False)
    assert run.visual_tokens.tolist() == [PATCHES] * 2


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (NoReduction(), None),
        (FastV(layer=1), None),
        (VTW(layer=2), None),
        (RANDOM, "random choice depends on the images.* a tower that packs them"),
        (DOWNSAMPLE, "Downsample.* works on the vision encoder; supported are .*, not 'pixtral'"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("rows", [1, 2])
def test_pixtral_runs_where_images_need_not_be_told_apart(
    method: ReductionMethod, message: str | None, rows: int
) -> None:
    model = model_with(PixtralVisionConfig(**VISION))
    given = {**inputs(rows), "image_sizes": torch.tensor([[16, 16]] * rows)}
    if message is None or (method is RANDOM and rows == 1):  # one image needs no telling apart
        with method(model):
            model.generate(**given, max_new_tokens=3, do_sample=False)
    else:
        with pytest.raises(DyrateError, match=message), method(model):
            model.generate(**given, max_new_tokens=3, do_sample=False)
