"""Methods that choose anew while the answer grows: numbers at LLaVA-1.5's sizes, and what is rare."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dyrate.attention import newest_attention
from dyrate.attention_rows import Attention
from dyrate.errors import DyrateError
from dyrate.finite import NotFiniteError
from dyrate.methods.annealing import Annealing
from dyrate.methods.dycoke import DyCoke
from dyrate.methods.visionpulse import VisionPulse
from dyrate.token_set import TokenSet
from dyrate.tokens import TokenLayout
from tests.tiny import IMAGE, tiny_inputs, tiny_llava

PATCHES, BEFORE, AFTER = 576, 35, 40


def view_of(attention: Attention, visual: int = PATCHES, layer: int = 15) -> Any:
    """One row at a decode step, as a method sees it."""
    return SimpleNamespace(
        layer=layer,
        visual_tokens=torch.tensor([visual]),
        present=torch.ones(1, visual, dtype=torch.bool),
        attention={layer: attention, layer - 1: attention},
        state={},
        vouched=(vouched := {}),
        expect_finite=vouched.__setitem__,
    )


def attention_of(logits: Tensor) -> Attention:
    """Of one row: LLaVA-1.5's prompt and two generated tokens; logits [heads, tokens]."""
    ids = torch.tensor([[3] * BEFORE + [IMAGE] * PATCHES + [3] * AFTER])
    tokens = TokenSet.whole(TokenLayout.from_prompt(ids, None, IMAGE, ()))
    heads = len(logits)
    query = torch.eye(heads)[None, :, None]  # each head has keys of its own
    keys = torch.zeros(1, heads, logits.shape[1], heads)
    for head in range(heads):
        keys[0, head, :, head] = logits[head]
    return newest_attention(query, keys, None, 1.0, tokens, whole=True)


LENGTH = BEFORE + PATCHES + AFTER + 2


@pytest.mark.parametrize(("least", "most", "kept"), [(0.05, 0.1, 57), (0.01, 0.05, 28), (0.1, 0.1, 57)])
def test_visionpulse_keeps_no_more_than_the_largest_share(least: float, most: float, kept: int) -> None:
    torch.manual_seed(0)
    attention = attention_of(torch.randn(4, LENGTH))  # most of it on the image
    found = VisionPulse(least=least, most=most).decode(view_of(attention))
    assert int(found.sum()) == kept


def test_visionpulse_keeps_the_smallest_share_where_nothing_looks_at_the_image() -> None:
    logits = torch.zeros(2, LENGTH)
    logits[:, 0] = 20
    logits[:, BEFORE + 7] = 1
    view = view_of(attention_of(logits))
    assert VisionPulse().decode(view).sum() == 28
    assert VisionPulse(least=0.001).decode(view)[0].nonzero().tolist() == [[7]]


def test_visionpulse_takes_the_share_of_the_head_that_looks_most() -> None:
    logits = torch.full((2, LENGTH), -50.0)
    logits[:, 0] = 0
    logits[1, BEFORE] = 0
    view = view_of(attention_of(logits))
    for temperature in (0.1, 1.0):  # half of the second head's, whatever the temperature
        method = VisionPulse(temperature=temperature, least=0.0, most=1.0)
        assert method.decode(view).sum() == pytest.approx(PATCHES // 2, abs=1)


def test_visionpulses_blocks_are_those_that_hold_nothing_but_the_image() -> None:
    """At positions 35..610 the second to the ninth block of 64 are whole, and 29 + 35 tokens are beside."""
    logits = torch.full((2, LENGTH), -20.0)
    logits[0, 130] = 0  # in the third block
    view = view_of(attention_of(logits))
    found = VisionPulse(unit="blocks").decode(view)[0]
    index = torch.arange(PATCHES) + BEFORE
    assert torch.equal(found, (index < 64) | (index >= 576) | (index // 64 == 2))
    assert int(found.sum()) == 29 + 64 + 35
    wide = VisionPulse(unit="blocks", least=0.3, most=0.3).decode(view)
    assert int(wide.sum()) == 29 + 3 * 64 + 35  # ceil(0.3 * 576 / 64)


@pytest.mark.parametrize(("depth", "anchor"), [(36, 17), (32, 15), (40, 18), (8, 3), (6, 2), (1, 0)])
def test_the_anchor_is_at_the_published_depth(depth: int, anchor: int) -> None:
    needs = VisionPulse().needs(depth)
    assert (needs.decode, needs.ahead) == ((anchor,), (anchor,))
    blocks = VisionPulse(unit="blocks").needs(depth)
    assert (blocks.decode, blocks.attention) == ((anchor + 1,), (anchor,))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (VisionPulse(anchor=6), "there is no layer 6; the model has layers 0..5"),
        (VisionPulse(anchor=5, unit="blocks"), "there is no layer 6"),
        (DyCoke(layer=6), "there is no layer 6"),
        (Annealing(layer=6), "there is no layer 6; the model has layers 0..5"),
    ],
    ids=str,
)
def test_a_layer_that_is_not_there_is_refused(method: Any, message: str) -> None:
    with pytest.raises(DyrateError, match=message):
        method(tiny_llava())


def test_shares_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(DyrateError, match="expected least <= most"):
        VisionPulse(least=0.5, most=0.4)


def looking(*weights: float) -> Attention:
    """What one head sees of 4 visual tokens."""
    scores = torch.tensor([[weights]])
    return Attention(torch.zeros(1, 1, 4), scores, scores[:, 0] >= 0)


STEPS = [(0.4, 0.3, 0.2, 0.1), (0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4)]


@pytest.mark.parametrize(
    ("unmoved", "expected"),
    [("all", [[0, 1], [0, 1, 2, 3], [2, 3], [0, 1, 2, 3]]), ("last", [[0, 1], [0, 1], [2, 3], [2, 3]])],
)
def test_dycoke_chooses_where_attention_has_moved(unmoved: str, expected: list[list[int]]) -> None:
    method = DyCoke(layer=1, rate=0.5, unmoved=unmoved)
    state = view_of(looking(0, 0, 0, 0), visual=4, layer=1)
    method.prefill(state)
    found = []
    for weights in STEPS:
        state.attention = {0: looking(*weights)}
        found.append(method.decode(state)[0].nonzero().flatten().tolist())
    assert found == expected


@pytest.mark.parametrize(("rate", "kept"), [(0.7, 172), (0.8, 115), (0.9, 57)])
def test_dycoke_keeps_the_published_numbers(rate: float, kept: int) -> None:
    torch.manual_seed(0)
    view = view_of(attention_of(torch.randn(4, LENGTH)), layer=3)
    DyCoke(rate=rate).prefill(view)
    assert int(DyCoke(rate=rate).decode(view).sum()) == kept


def counts(method: Annealing, steps: int, depth: int = 32) -> list[list[int]]:
    """Tokens of each stage, at prefill and after each step, of 576 that are looked at alike."""
    view: Any = SimpleNamespace(
        visual_tokens=torch.tensor([PATCHES]),
        attention={layer: attention_of(torch.zeros(1, LENGTH)) for layer in range(depth)},
        state={},
    )
    needs, held, found = method.needs(depth), {}, []
    for step in range(steps + 1):
        present = torch.ones(1, PATCHES, dtype=torch.bool)
        for layer in needs.prefill:
            view.layer, view.present = layer, present & held.get(layer, present)
            held[layer] = present = (method.decode if step else method.prefill)(view)
        found.append([int(held[layer].sum()) for layer in needs.prefill])
    return found


def test_annealing_falls_over_layers_and_steps() -> None:
    method = Annealing()
    assert method.needs(32).prefill == (2, 10, 18, 26)
    found = counts(method, 66)
    assert found[0] == [403, 282, 198, 138]  # 576 x 0.7, 0.49, 0.343, 0.2401
    assert found[32] == [302, 212, 148, 104]  # three quarters
    assert found[64] == found[66] == [202, 141, 99, 69]  # half

    def left(stages: list[int]) -> float:
        return (2 * PATCHES + sum(n * width for n, width in zip(stages, (8, 8, 8, 6), strict=True))) / (
            32 * PATCHES
        )

    assert left(found[0]) == pytest.approx(0.49, abs=0.005)
    assert left(found[64]) == pytest.approx(0.28, abs=0.005)


def test_a_cosine_falls_slowly_first() -> None:
    found = counts(Annealing(rate=0.0, least=0.0, span=4, stride=40, decay="cosine"), 4)
    assert found == [[576], [492], [288], [84], [0]]


def test_annealing_leaves_the_cache_shorter_with_every_step() -> None:
    model, method = tiny_llava(), Annealing(layer=2, stride=2, rate=0.2, least=0.25, span=6)
    lengths = []
    for steps in (1, 3, 5, 7):
        with method(model) as run:
            model.generate(**tiny_inputs([7]), max_new_tokens=steps, do_sample=False)
        lengths.append((run.kv_lengths[:, 0] - run.text_tokens - (steps - 1)).tolist())
    for held, first, second in zip(lengths, (13, 10, 6, 3), (10, 8, 5, 3), strict=True):
        assert held[:4] == [16, 16, first, first]
        assert held[4] == held[5] <= second


@pytest.mark.parametrize("unit", ["tokens", "blocks"])
def test_visionpulse_vouches_for_the_share_that_counts_are_made_of(unit: str) -> None:
    logits = torch.zeros(2, LENGTH)
    logits[0, BEFORE] = torch.nan
    view = view_of(attention_of(logits))
    with pytest.raises(NotFiniteError, match="scores of row 0"):  # a GPU would go on, and tell afterwards
        VisionPulse(unit=unit, least=0.1, most=0.9).decode(view)
    assert not view.vouched["share"].isfinite().all()
