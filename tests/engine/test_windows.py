"""A tower's windows attend in one call for each length, and give what transformers gives one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate.engine import windows
from dyrate.engine.encoder import FusedEncoder
from dyrate.families import family_of
from tests.tiny import tiny_llava
from tests.tiny_families import TINY

WINDOWED = ["qwen2_5_vl", "qwen3_vl"]
GRIDS = torch.tensor([(1, 12, 16), (1, 6, 10), (1, 12, 16), (1, 2, 2)])


def tower_of(name: str) -> Any:
    return family_of(TINY[name].subject.model).encoder


def patches() -> Tensor:
    return torch.randn(int(GRIDS.prod(dim=1).sum()), 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries of each call."""
    shapes: list[tuple[int, ...]] = []
    attend: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention

    def noted(query: Tensor, *arguments: Any, **options: Any) -> Tensor:
        shapes.append(tuple(query.shape))
        return attend(query, *arguments, **options)

    monkeypatch.setattr(windows, "scaled_dot_product_attention", noted)
    return shapes


@torch.no_grad()
@pytest.mark.parametrize("name", WINDOWED)
def test_a_tower_gives_what_it_gave(name: str, calls: list[tuple[int, ...]]) -> None:
    tower = tower_of(name)
    expected = tower(patches(), grid_thw=GRIDS)
    with FusedEncoder(tower).active():
        found = tower(patches(), grid_thw=GRIDS)
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)
    # Of each layer as many as there are lengths: of whole images 192, 60 and 4 patches, and of windows of
    # 4 x 4 patches what the images' edges leave of them.
    whole, parts = {192, 60, 4}, {16, 8, 4}
    lengths = [whole] * 5 if name == "qwen3_vl" else [parts, whole, parts, whole]
    assert [shape[2] for shape in calls] == [length for kinds in lengths for length in sorted(kinds)]
    assert {shape[0] for shape in calls if shape[2] == 192} == {2}
    assert tower.config._attn_implementation == "sdpa"


@torch.no_grad()
def test_very_many_windows_attend_in_several_calls(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = tower_of("qwen2_5_vl")
    expected = tower(patches(), grid_thw=GRIDS).pooler_output
    monkeypatch.setattr(windows, "_AT_ONCE", 5)
    with FusedEncoder(tower).active():
        found = tower(patches(), grid_thw=GRIDS).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert max(shape[0] for shape in calls) == 5


@torch.no_grad()
@pytest.mark.parametrize("name", WINDOWED)
def test_a_tower_that_attends_otherwise_is_left_alone(name: str, calls: list[tuple[int, ...]]) -> None:
    tower = tower_of(name)
    encoder = FusedEncoder(tower)
    with encoder.active():
        tower(patches(), grid_thw=GRIDS)
    assert calls
    calls.clear()
    tower.config._attn_implementation = "eager"
    try:
        with encoder.active():
            tower(patches(), grid_thw=GRIDS)
        assert tower.config._attn_implementation == "eager"
    finally:
        tower.config._attn_implementation = "sdpa"
    assert not calls


@torch.no_grad()
def test_after_an_error_a_tower_is_what_it_was() -> None:
    tower = tower_of("qwen2_5_vl")
    with FusedEncoder(tower).active(), pytest.raises(RuntimeError):
        tower(patches()[:-3], grid_thw=GRIDS)
    assert tower.config._attn_implementation == "sdpa"


def test_towers_without_windows_have_none() -> None:
    assert not windows.has_windows(family_of(tiny_llava()).encoder)
    assert windows.has_windows(tower_of("qwen2_5_vl"))


def test_the_places_of_windows_by_their_length() -> None:
    found = windows.places(torch.tensor([0, 4, 6, 6, 10, 12, 15], dtype=torch.int32))
    assert [place.tolist() for place in found] == [
        [[4, 5], [10, 11]],
        [[12, 13, 14]],
        [[0, 1, 2, 3], [6, 7, 8, 9]],
    ]
