"""The attention rows that methods read, against the whole softmax of plain loops."""

import math

import pytest
import torch
from torch import Tensor

from dyrate.attention import ForwardPass, newest_attention, prompt_attention
from dyrate.errors import DyrateError
from dyrate.kernels.rank import top
from dyrate.token_set import TokenSet
from dyrate.tokens import TokenLayout

I = 9  # noqa: E741 - the image token stands out in a row of numbers
HEADS, KV_HEADS, DIM = 4, 2, 3
SCALING = DIM**-0.5

# An image in the first place; text in the first place before an image; text alone after padding.
PROMPTS = torch.tensor([[I, 2, I, 4, 5], [1, I, I, 2, 3], [0, 0, 1, 2, 3]])
MASK = torch.tensor([[1] * 5, [1] * 5, [0, 0, 1, 1, 1]])


def tokens() -> TokenSet:
    return TokenSet.whole(TokenLayout.from_prompt(PROMPTS, MASK, image_token_id=I))


def states(heads: int, slots: int, seed: int) -> Tensor:
    return torch.randn(3, heads, slots, DIM, generator=torch.Generator().manual_seed(seed))


def softmax_row(query: Tensor, key: Tensor, row: int, head: int, slot: int, seen: list[int]) -> list[float]:
    shared = key[row, head // (HEADS // KV_HEADS)]
    logits = {at: float(query[row, head, slot] @ shared[at]) * SCALING for at in seen}
    total = sum(math.exp(logit) for logit in logits.values())
    return [math.exp(logits[at]) / total if at in logits else 0.0 for at in range(key.shape[2])]


@pytest.mark.parametrize("queries", ["instruction", "all"])
def test_rows_of_the_prompt(queries: str) -> None:
    held = tokens()
    query, key = states(HEADS, 5, 0), states(KV_HEADS, 5, 1)
    found = prompt_attention(query, key, held.prefill_mask(), SCALING, held, queries)
    valid = MASK.bool().tolist()
    visual = [[0, 2], [1, 2], []]
    instruction = [[1, 3, 4], [3, 4], [2, 3, 4]]
    for row in range(3):
        asked = instruction[row] if queries == "instruction" else [s for s in range(5) if valid[row][s]]
        width = found.queries.shape[1]
        places = range(width - len(asked), width) if queries == "instruction" else asked
        assert found.queries[row].nonzero().flatten().tolist() == list(places)
        for head in range(HEADS):
            for place, slot in zip(places, asked, strict=True):
                seen = [at for at in range(slot + 1) if valid[row][at]]
                right = softmax_row(query, key, row, head, slot, seen)
                assert found.weights[row, head, place].tolist() == pytest.approx(right, abs=1e-6)
                on_images = [right[at] for at in visual[row]] + [0.0] * (2 - len(visual[row]))
                assert found.visual[row, head, place].tolist() == pytest.approx(on_images, abs=1e-6)
                on_text = [0.0] * (3 - len(instruction[row])) + [right[at] for at in instruction[row]]
                assert found.instruction[row, head, place].tolist() == pytest.approx(on_text, abs=1e-6)
        assert not found.weights[row][:, ~found.queries[row]].any()


def test_the_newest_row_and_its_mass_on_every_class() -> None:
    held = tokens()
    query, key = states(HEADS, 1, 2), states(KV_HEADS, 6, 3)
    attention = newest_attention(query, key, held.decode_mask(1), SCALING, held)
    visual = [[0, 2], [1, 2], []]
    system = [[], [0], []]
    for row in range(3):
        seen = [at for at in range(6) if at == 5 or MASK[row, at]]
        for head in range(HEADS):
            right = softmax_row(query, key, row, head, 0, seen)
            images, own = sum(right[at] for at in visual[row]), right[5]
            before = sum(right[at] for at in system[row])
            mass = [before, images, sum(right) - images - own - before, own]
            assert attention.class_mass[row, head].tolist() == pytest.approx(mass, abs=1e-6)
            on_images = [right[at] for at in visual[row]] + [0.0] * (2 - len(visual[row]))
            assert attention.head_scores[row, head].tolist() == pytest.approx(on_images, abs=1e-6)
    with pytest.raises(DyrateError, match="only the newest query's attention was read"):
        _ = attention.prompt


def test_a_pass_masks_what_is_padded_or_blocked_and_nothing_else() -> None:
    padded = tokens()
    full = TokenSet.whole(TokenLayout.from_prompt(PROMPTS[:2], None, image_token_id=I))
    blocked = frozenset({("ins", "img")})

    def forward(index: int = 0, blocked: frozenset[tuple[str, str]] = frozenset()) -> ForwardPass:
        return ForwardPass(index, [full] * 3, generated=index, observed={}, blocked=blocked)

    assert forward().mask(full) is None
    assert forward(1).mask(full) is None
    hidden = forward(0, blocked).mask(full)
    assert hidden is not None
    assert torch.equal(hidden, full.prefill_mask(blocked))
    for index, right in ((0, padded.prefill_mask()), (2, padded.decode_mask(2))):
        found = forward(index).mask(padded)
        assert found is not None
        assert torch.equal(found, right)


def test_what_is_remembered_is_the_newest_row_alone() -> None:
    held = tokens()
    query, key = states(HEADS, 5, 0), states(KV_HEADS, 5, 1)
    newest = newest_attention(query[:, :, -1:], key, held.prefill_mask()[:, :, -1:], SCALING, held)
    assert newest.of_step_before() is newest
    rows = prompt_attention(query, key, held.prefill_mask(), SCALING, held, "all")
    both = type(newest)(newest.class_mass, newest.head_scores, newest.seen, rows)
    assert both.prompt is rows
    assert both.of_step_before().of_prompt is None
    assert both.of_step_before().head_scores is newest.head_scores


def test_the_row_without_an_order_is_named() -> None:
    scores = torch.zeros(3, 4)
    scores[1, 2] = math.nan
    with pytest.raises(DyrateError, match="row 1"):
        top(scores, torch.tensor([1, 1, 1]))
    # What may not be chosen needs no order.
    assert top(scores, torch.tensor([1, 1, 1]), ~scores.isnan()).sum() == 3
