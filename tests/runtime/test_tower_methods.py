"""Methods that read the vision tower, at the sizes of LLaVA-1.5: the numbers that their papers print."""

from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig

from dyrate import load_method
from dyrate.errors import DyrateError
from dyrate.methods.prumerge import PruMerge, PruMergePlus
from tests.runtime.test_towers import IMAGE, VISION, model_with
from tests.tiny import tiny_inputs, tiny_llava

PATCHES = 24 * 24


@pytest.fixture(scope="module")
def clip() -> Any:
    """24 layers, and 24 x 24 patches behind a class token."""
    tower = CLIPVisionConfig(**{**VISION, "num_hidden_layers": 24, "image_size": 96})
    model = model_with(tower)
    model.model.config.vision_feature_layer = -2
    model.model.config.vision_feature_select_strategy = "default"
    return model


def kept(model: Any, **spec: Any) -> list[int]:
    ids = torch.tensor([[2, 5, *[IMAGE] * PATCHES, 7]])
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), load_method(spec)(model) as run:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
    found: list[int] = run.kept[0][0].tolist()
    assert run.kv_lengths[:, 0].tolist() == [3 + len(found)] * len(run.kv_lengths)
    return found


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ({"name": "visionzip"}, 64),
        ({"name": "visionzip", "dominant": 108, "contextual": 20}, 128),
        ({"name": "visionzip", "dominant": 162, "contextual": 30}, 192),
        ({"name": "visionzip", "dominant": 191, "contextual": 30}, 221),
        ({"name": "prumerge", "ratio": 0.125}, 73),
        ({"name": "vispruner", "rate": 2 / 3}, 192),
        ({"name": "vispruner", "rate": 7 / 9}, 128),
        ({"name": "vispruner", "rate": 8 / 9}, 64),
        ({"name": "vispruner", "rate": 1 - 66 / 576}, 66),
        ({"name": "vispruner", "rate": 1 - 8 / 576}, 8),
        ({"name": "hiprune", "rate": 2 / 3}, 192),
        ({"name": "hiprune", "rate": 7 / 9}, 128),
        ({"name": "hiprune", "rate": 8 / 9}, 64),
        ({"name": "average_pool"}, 144),
        ({"name": "average_pool", "size": 3}, 64),
    ],
    ids=str,
)
def test_budgets_of_the_papers_are_met(spec: dict[str, Any], count: int, clip: Any) -> None:
    assert len(kept(clip, **spec)) == count


def test_prumerge_plus_keeps_an_eighth_by_attention_and_another_at_equal_distances(clip: Any) -> None:
    ranked = kept(clip, name="prumerge", ratio=0.125)  # the last one is of the rest
    spaced = set(range(4, 575, 8))
    assert len(spaced) == 72
    both = kept(clip, name="prumerge_plus", ratio=0.125)
    assert spaced <= set(both)
    assert len(set(ranked) - set(both)) <= 1
    assert 1 + 72 < len(both) <= 1 + 72 + 72


@pytest.mark.parametrize(
    ("outliers", "distance", "staying"),
    [
        (32, 6, 32 + 96 - 6),  # int(1 / (32 / 576)) = 18, a third of which is 6; 0, 6 .. 30 are outliers
        (40, 4, 40 + 144 - 10),  # 14, and 4.67
        (144, 1, 575),  # 4, and 1.33; the last token stays by attention alone
        (0, 192, 1 + 3 - 1),  # the most attended one counts
    ],
)
def test_prumerge_plus_samples_by_the_share_of_outliers(outliers: int, distance: int, staying: int) -> None:
    rank = torch.arange(PATCHES)[None]
    order, counts = PruMergePlus().arranged(rank, torch.tensor([outliers / PATCHES], dtype=torch.float64))
    assert counts.tolist() == [staying]
    standing = order[0].argsort()[:staying].tolist()
    first = list(range(max(1, outliers)))
    assert standing == first + [token for token in range(0, 575, distance) if token not in first]


def test_prumerge_without_outliers_is_one_token() -> None:
    order, counts = PruMerge().arranged(torch.arange(PATCHES)[None], torch.zeros(1).double())
    assert counts.tolist() == [0]
    assert order.tolist() == [list(range(PATCHES))]


@pytest.mark.parametrize("name", ["prumerge", "visionzip", "vispruner", "hiprune", "average_pool"])
def test_a_class_token_among_the_visual_tokens_is_refused(name: str) -> None:
    model, inputs = tiny_llava(), tiny_inputs([7])
    model.model.config.vision_feature_select_strategy = "full"
    ids = torch.cat(
        [inputs["input_ids"][:, :4], inputs["input_ids"][:, 4:5], inputs["input_ids"][:, 4:]], dim=1
    )
    with (
        pytest.raises(DyrateError, match="the class token is one of the visual tokens"),
        load_method(name)(model),
    ):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"])


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus", "visionzip", "vispruner", "hiprune"])
def test_an_image_of_nan_fails_the_generation_by_its_row(name: str) -> None:
    model, inputs = tiny_llava(), tiny_inputs([7, 3], images=[2, 1])
    inputs["pixel_values"][2, 0, 0, 0] = torch.nan
    spec = {"name": name, **({"dominant": 4, "contextual": 3} if name == "visionzip" else {})}
    with (
        pytest.raises(DyrateError, match=r"attention.* of row 1 at step 0 are NaN or infinite"),
        load_method(spec)(model),
    ):
        model.generate(**inputs, max_new_tokens=2)


def test_merging_says_where_tokens_went() -> None:
    inputs = tiny_inputs([7, 3, 4], images=[1, 2, 0])
    for spec in (
        {"name": "visionzip", "dominant": 4, "contextual": 3},
        {"name": "prumerge", "ratio": 0.3},
        {"name": "average_pool"},
    ):
        model = tiny_llava()
        with torch.no_grad(), load_method(spec)(model) as run:
            model(**inputs)
        for row, visual in enumerate([16, 32, 0]):
            staying, into = run.kept[0][row].tolist(), run.merged[0][row].tolist()
            assert into[visual:] == [-1] * (32 - visual)
            assert set(into[:visual]) <= set(staying)
            assert all(home // 16 == token // 16 for token, home in enumerate(into[:visual]))
