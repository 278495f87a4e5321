"""How many tokens published methods keep in LLaVA-1.5-7B's shape: 576 visual tokens, 32 layers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from dyrate import load_method
from dyrate.errors import DyrateError
from tests.tiny import BOS, IMAGE, tiny_llava

LAYERS = 32


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(num_layers=LAYERS, image_size=96)


def counts(model: Any, **spec: Any) -> list[int]:
    """Visual tokens by layer, for a prompt with 34 tokens before the image and 20 after it."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(3, IMAGE, (54,), generator=generator).tolist()
    ids = torch.tensor([[BOS, *text[:34], *[IMAGE] * 576, *text[34:]]])
    pixels = torch.randn(1, 3, 96, 96, generator=generator)
    with torch.no_grad(), load_method(spec)(model) as run:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
    return [len(run.kept[layer][0]) for layer in range(LAYERS)]


def stages(*pairs: tuple[int, int]) -> list[int]:
    """(layers, tokens), one after the other."""
    return [tokens for layers, tokens in pairs for _ in range(layers)]


def logged(found: Sequence[int]) -> float:
    """The mean that SparseVLM's code logs: sparse layers count with what leaves them."""
    return (sum(found[1:]) + found[-1]) / LAYERS


# Tokens, then clusters: of 276 that leave, 83 are recycled into 9; of 109, 33 into 4; of 94, 29 into 3.
SPARSE = {
    192: (stages((3, 576), (4, 309), (9, 204), (16, 113)), 192.03, 206.5),
    128: (stages((3, 576), (4, 303 + 9), (9, 110 + 7), (16, 36 + 3)), 128.62, 145.41),
    96: (stages((3, 576), (4, 238 + 11), (9, 48 + 7), (16, 26 + 1)), 96.94, 114.09),
    64: (stages((3, 576), (4, 66 + 16), (9, 30 + 2), (16, 17 + 1)), 64.81, 82.25),
}


@pytest.mark.parametrize("budget", SPARSE)
def test_sparsevlm_keeps_the_published_budgets(budget: int, model: Any) -> None:
    expected, published, mean = SPARSE[budget]
    found = counts(model, name="sparsevlm", tokens=budget)
    assert found == expected
    assert round(logged(found), 2) == published
    assert round(sum(found) / LAYERS, 2) == mean


@pytest.mark.parametrize(
    ("budget", "left", "published"),
    [(192, (300, 200, 118), 192.44), (128, (238, 108, 60), 128.0), (64, (66, 34, 20), 64.44)],
)
def test_sparsevlm_plus_merges_nothing(budget: int, left: Any, published: float, model: Any) -> None:
    found = counts(model, name="sparsevlm", version="2.0", tokens=budget)
    assert found == stages((3, 576), (4, left[0]), (9, left[1]), (16, left[2]))
    assert round(logged(found), 2) == published


def test_pyramiddrop_halves_at_the_quarters(model: Any) -> None:
    found = counts(model, name="pyramiddrop")
    assert found == stages((8, 576), (8, 288), (8, 144), (8, 72))
    assert sum(found) / LAYERS == 270


@pytest.mark.parametrize(("rate", "kept"), [(0.778, 132), (2 / 3, 196), (8 / 9, 68), (0.0, 576), (1.0, 4)])
def test_dart_keeps_its_pivots_and_what_they_take(rate: float, kept: int, model: Any) -> None:
    assert counts(model, name="dart", rate=rate) == stages((2, 576), (30, kept))


@pytest.mark.parametrize("rate", [0.902, 0.5])
def test_divprune_keeps_a_share_from_the_first_layer_on(rate: float, model: Any) -> None:
    assert counts(model, name="divprune", rate=rate) == [{0.902: 56, 0.5: 288}[rate]] * LAYERS


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "sparsevlm"},
        {"name": "sparsevlm", "version": "2.0"},
        {"name": "dart", "rate": 0.5},
        {"name": "divprune", "rate": 0.5},
        {"name": "pyramiddrop"},
        {"name": "fastv", "queries": "all"},
    ],
    ids=str,
)
def test_a_prompt_may_end_with_its_image(spec: dict[str, Any]) -> None:
    small, image = tiny_llava(), [IMAGE] * 16
    alone = torch.tensor([[BOS, 5, *image]])
    beside = torch.tensor([[0, BOS, 5, *image], [BOS, *image, 8, 9]])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kept = []
    for ids in (alone, beside):
        inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": pixels[: len(ids)]}
        with load_method(spec)(small) as run:
            small.generate(**inputs, max_new_tokens=2, do_sample=False)
        kept.append([run.kept[layer][0].tolist() for layer in range(6)])
    assert kept[0] == kept[1]
    assert 0 < len(kept[0][5]) < 16


def layers(method: str, depth: int) -> tuple[int, ...]:
    return tuple(load_method(method).needs(depth).prefill)


def test_other_depths_drop_as_deep() -> None:
    assert [layers("pyramiddrop", depth) for depth in (32, 40, 12, 6, 4)] == [
        (8, 16, 24),
        (10, 20, 30),
        (3, 6, 9),
        (2, 3, 4),
        (1, 2, 3),
    ]
    assert [layers("sparsevlm", depth)[1:] for depth in (32, 40, 12, 6, 4)] == [
        (3, 7, 16),
        (3, 9, 20),
        (2, 3, 7),
        (1, 2, 4),
        (1, 2, 3),
    ]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shallow": ({"name": "pyramiddrop"}, r"there is no layer 2; the model has layers 0\.\.1"),
    "shallow too": ({"name": "sparsevlm"}, r"32 layers, \(2, 6, 15\), in 2 layers are \(0, 0, 1\)"),
    "descending": ({"name": "pyramiddrop", "layers": [1, 0, 2]}, "expected at least 1"),
    "twice": ({"name": "pyramiddrop", "layers": [1, 1, 2]}, r"layers \(1, 1, 2\): each must be deeper"),
    "too deep": ({"name": "sparsevlm", "layers": [0, 1, 2]}, r"the model has layers 0\.\.1"),
    "ratios": ({"name": "pyramiddrop", "ratios": [0.5]}, "expected 3 shares, as many as layers"),
    "rising ratios": ({"name": "pyramiddrop", "ratios": [0.5, 0.6, 0.1]}, "none above the one before"),
    "no such budget": ({"name": "sparsevlm", "tokens": 100}, "expected 192, 128, 96, 64 with three layers"),
    "budget, layers": (
        {"name": "sparsevlm", "layers": [0, 1]},
        "expected 192, 128, 96, 64 with three layers",
    ),
    "counts": ({"name": "sparsevlm", "tokens": [9, 8]}, "expected 3 counts, as many as layers"),
    "negative": ({"name": "sparsevlm", "tokens": [9, 8, -1]}, "expected at least 0"),
    "idle heads": ({"name": "sparsevlm", "heads": 3}, "heads and divide are for 2.0"),
    "idle noise": ({"name": "sparsevlm", "version": "2.0", "tie_noise": True}, "tie_noise is for 1.5"),
    "no pivots": ({"name": "dart", "visual_pivots": 0, "instruction_pivots": 0}, "one of them must not be 0"),
    "queries": ({"name": "fastv", "queries": "first"}, "expected one of 'last', 'all'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_method_cannot_be_is_refused(case: str) -> None:
    spec, message = WRONG[case]
    with pytest.raises(DyrateError, match=message):
        load_method(spec).check(num_layers=2, num_heads=4)


def test_the_name_of_a_fastv_result_is_what_it_was() -> None:
    assert load_method("fastv").spec() == {"name": "fastv", "layer": 2, "rate": 0.5}
    other = load_method({"name": "fastv", "queries": "all"})
    assert load_method(other.spec()) == other
    assert other.label == "FastV (K=2, R=0.5, queries=all)"


def test_labels_tell_settings_apart() -> None:
    labels = {
        "SparseVLM (192)": {"name": "sparsevlm"},
        "SparseVLM (66+30+17)": {"name": "sparsevlm", "tokens": [66, 30, 17]},
        "SparseVLM+ (64, version=2.0, divide=False)": {
            "name": "sparsevlm",
            "tokens": 64,
            "version": "2.0",
            "divide": False,
        },
        "DART (K=2, R=0.778)": {"name": "dart"},
        "DivPrune (K=0, R=0.902)": {"name": "divprune"},
        "PyramidDrop": {"name": "pyramiddrop"},
    }
    assert [load_method(spec).label for spec in labels.values()] == list(labels)
