"""What the KV cache tells transformers and this package, layer by layer."""

import pytest
import torch
from torch import Tensor

from dyrate.cache import ReducedCache
from dyrate.errors import DyrateError
from dyrate.tokens import TokenLayout

IMAGE = 9
PROMPTS = torch.tensor([[1, IMAGE, IMAGE, 4], [1, 2, IMAGE, 3]])
MOVES: list[list[int]] = []


def filled(layers: int = 2, generated: int = 0) -> ReducedCache:
    """Return a cache in which the key of a token is its column, everywhere."""
    MOVES.clear()
    layout = TokenLayout.from_prompt(PROMPTS, None, image_token_id=IMAGE)
    cache = ReducedCache(layers, layout, on_select_rows=lambda rows: MOVES.append(rows.tolist()))
    for start, stop in [(0, 4), *((4 + t, 5 + t) for t in range(generated))]:
        cache.incoming = stop - start
        states = torch.arange(start, stop, dtype=torch.float32)[None, None, :, None].expand(2, 1, -1, 3)
        for layer in range(layers):
            cache.update(states, states, layer)
    return cache


def held(cache: ReducedCache, layer: int) -> list[list[float]]:
    keys: Tensor = cache.layers[layer].keys
    assert torch.equal(keys, cache.layers[layer].values)
    return keys[:, 0, :, 0].tolist()


@pytest.mark.parametrize("layers", [1, 3])
def test_a_forward_counts_its_tokens_once(layers: int) -> None:
    cache = filled(layers, generated=2)
    assert cache.get_seq_length() == cache.get_seq_length(layers - 1) == 6
    assert cache.generated == 2
    assert cache.get_mask_sizes(1, 0) == (7, 0)
    assert cache.lengths().tolist() == [[6, 6]] * layers


def test_nothing_is_generated_before_the_prompt_is_in() -> None:
    layout = TokenLayout.from_prompt(PROMPTS, None, image_token_id=IMAGE)
    assert ReducedCache(2, layout, on_select_rows=MOVES.append).generated == 0


def test_an_eviction_leaves_earlier_layers_and_generated_tokens() -> None:
    cache = filled(3, generated=1)
    cache.evict(1, torch.tensor([[False, True], [False, True]]))
    assert held(cache, 0) == [[0, 1, 2, 3, 4]] * 2
    # The second row's only visual token goes, and the first row's first.
    assert held(cache, 1) == held(cache, 2) == [[0, 2, 3, 4], [0, 1, 3, 4]]
    assert cache.lengths().tolist() == [[5, 5], [4, 4], [4, 4]]
    assert cache.get_seq_length() == 5
    assert cache.cached[1] is cache.cached[2]
    cache.drop_visual()
    assert cache.lengths().tolist() == [[3, 4]] * 3
    assert held(cache, 0) == [[2, 0, 3, 4], [0, 1, 3, 4]]  # what was dropped pads the shorter row
    assert cache.cached[0].slots.tolist() == [[-1, 0, 3], [0, 1, 3]]


def test_rows_move_with_all_that_is_theirs() -> None:
    cache = filled(2, generated=1)
    cache.evict(1, torch.tensor([[False, True], [True, True]]))
    cache.reorder_cache(torch.tensor([1, 0]))
    assert cache.cached[1].slots.tolist() == [[0, 1, 2, 3], [0, -1, 2, 3]]
    cache.batch_repeat_interleave(2)
    assert len(cache.cached[0].slots) == len(held(cache, 0)) == 4
    cache.batch_select_indices(torch.tensor([True, False, False, True]))
    assert MOVES == [[1, 0], [0, 0, 1, 1], [0, 3]]
    cache.release()
    cache.reorder_cache(torch.tensor([0, 1]))
    assert len(MOVES) == 3  # the run that was parted from hears no more


def test_a_cache_that_was_released_takes_no_more_and_is_never_rolled_back() -> None:
    cache = filled()
    assert cache.is_croppable is False
    for roll_back in (lambda: cache.crop(-1), cache.activate_past_recording):
        with pytest.raises(DyrateError, match="cannot be cropped"):
            roll_back()
    cache.release()
    states = torch.zeros(2, 1, 1, 3)
    with pytest.raises(DyrateError, match="inside its own with block only"):
        cache.update(states, states, 0)
