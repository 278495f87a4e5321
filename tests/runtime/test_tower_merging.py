"""ToMe: numbers at LLaVA-1.5's sizes, other towers, and what is rare."""

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, SiglipVisionConfig

from dyrate.installation import TowerTokens
from dyrate.methods.tome import ToMe, merge_pairs
from tests.runtime.merging_rules import ToMeRule
from tests.runtime.reference import masked_forward
from tests.runtime.test_towers import IMAGE, VISION, inputs, model_with
from tests.tiny import tiny_llava


def tokens_of(keys: Tensor, sizes: Tensor | None = None) -> TowerTokens:
    """One image, whose tokens' states are their numbers."""
    count = len(keys)
    numbers = torch.arange(count)[None]
    sizes = torch.ones(count) if sizes is None else sizes
    return TowerTokens(numbers[..., None].float(), keys[None, None], sizes[None], numbers)


@pytest.mark.parametrize(("merged", "features"), [(16, 208), (17, 185), (20, 116), (22, 70), (0, 576)])
def test_of_llavas_patches_so_many_are_left(merged: int, features: int) -> None:
    torch.manual_seed(0)
    tokens = tokens_of(torch.randn(577, 4))
    for _ in range(23):
        tokens = merge_pairs(tokens, min(merged, (tokens.states.shape[1] - 1) // 2), 1)
        tokens = TowerTokens(
            tokens.states, torch.randn(1, 1, tokens.states.shape[1], 4), tokens.sizes, tokens.origins
        )
    assert tokens.states.shape == (1, features + 1, 1)
    assert tokens.sizes.sum() == 577
    assert tokens.sizes[0, 0] == 1, "the class token stays as it is"
    assert tokens.origins.unique().numel() == features + 1


def test_the_most_alike_become_their_mean() -> None:
    angles = torch.tensor([0.0, 0.5, 0.6, 2.0, 2.05, 3.0, 1.92, 9.0])
    keys = torch.stack([angles.cos(), angles.sin()], dim=1)
    sizes = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0, 1.0, 2.0, 1.0])
    # A: 0, 2, 4, 6. The nearest in B: 1 for 0 and 2, 3 for 4 and 6. 4 - 3 comes first, then 6 - 3 and 2 - 1.
    found = merge_pairs(tokens_of(keys, sizes), 1, 0)
    assert found.origins.tolist() == [[6, 2, 0, 1, 3, 5, 7]]
    assert found.states[0, 4].item() == pytest.approx((2 * 3 + 4) / 3)
    found = merge_pairs(tokens_of(keys, sizes), 3, 0)
    assert found.origins.tolist() == [[0, 1, 3, 5, 7]]
    assert found.sizes.tolist() == [[1, 4, 5, 1, 1]]
    assert found.states[0, 1].item() == pytest.approx((3 * 1 + 2) / 4)
    assert found.states[0, 2].item() == pytest.approx((2 * 3 + 4 + 2 * 6) / 5)


def test_a_class_token_never_merges_and_the_rest_keeps_its_order() -> None:
    keys = torch.ones(9, 2)  # all are alike: the lower index goes first
    found = merge_pairs(tokens_of(keys), 2, 1)
    assert found.origins.tolist() == [[0, 6, 8, 1, 3, 5, 7]]
    assert found.states[0, 3].item() == pytest.approx((1 + 2 + 4) / 3)


@pytest.mark.parametrize("merged", [3, 7])
@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("tower", ["siglip", "clip"])
def test_several_layers_are_those_of_the_rule(tower: str, proportional: bool, merged: int) -> None:
    """A tower without a class token, and one with it whose second-last layer is read."""
    layers = {**VISION, "num_hidden_layers": 4}
    if tower == "siglip":
        model = model_with(SiglipVisionConfig(**layers))
    else:
        model = model_with(CLIPVisionConfig(**layers))
        model.config.vision_feature_layer, model.config.vision_feature_select_strategy = -2, "default"
    with torch.no_grad():
        for parameter in model.model.vision_tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    given, method = inputs(2), ToMe(merged=merged, proportional=proportional)
    with method(model) as run:
        output = model.generate(
            **given, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    for row in range(2):
        alone = {
            "input_ids": given["input_ids"][row : row + 1],
            "pixel_values": given["pixel_values"][row : row + 1],
        }
        expected = masked_forward(
            model, alone, output.sequences[row, -3:].tolist(), ToMeRule(merged, proportional)
        )
        logits = torch.stack([step[row] for step in output.logits])
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
        assert run.kept[0][row].tolist() == expected.kept[0]
        assert len(run.kept[0][row]) < 16


def test_a_class_token_that_is_a_feature_stays_the_first() -> None:
    model = model_with(CLIPVisionConfig(**{**VISION, "num_hidden_layers": 3}))
    given = inputs(1)
    given["input_ids"] = torch.tensor([[2, 5, *[IMAGE] * 17, 7, 8, 9]])
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    with torch.no_grad(), ToMe(merged=2)(model) as run:
        model(**given)
    assert len(run.kept[0][0]) == 17 - 3 * 2
    assert run.kept[0][0][0] == 0


def test_half_precision_merges_as_many() -> None:
    model, given = tiny_llava().bfloat16(), inputs(2)
    with torch.no_grad(), ToMe(merged=4)(model) as run:
        logits = model(**{**given, "pixel_values": given["pixel_values"].bfloat16()}).logits
    assert logits.dtype == torch.bfloat16
    assert [len(row) for row in run.kept[0]] == [12, 12]
