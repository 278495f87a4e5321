"""Where the token classes stand, with padding, several images, and none."""

import torch

from dyrate.token_set import TokenSet
from dyrate.tokens import TokenClass, TokenLayout

I = 9  # noqa: E741 - the image token stands out in a row of numbers
PAD, SYS, IMG, INS = TokenClass.PADDING, TokenClass.SYS, TokenClass.IMG, TokenClass.INS

PROMPTS = torch.tensor([[0, 1, I, I, 4, 5], [1, I, 2, I, I, 3], [0, 0, 0, 1, 2, 3]])
MASK = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])


def layout() -> TokenLayout:
    return TokenLayout.from_prompt(PROMPTS, MASK, image_token_id=I)


def test_classes_of_one_image_of_two_and_of_none() -> None:
    assert layout().classes.tolist() == [
        [PAD, SYS, IMG, IMG, INS, INS],
        [SYS, IMG, INS, IMG, IMG, INS],
        [PAD, PAD, PAD, INS, INS, INS],
    ]


def test_visual_tokens_are_numbered_per_row() -> None:
    assert layout().visual_index.tolist() == [[-1, -1, 0, 1, -1, -1], [-1, 0, -1, 1, 2, -1], [-1] * 6]
    assert layout().visual_tokens.tolist() == [2, 3, 0]
    assert layout().valid.tolist() == [[True, True, False], [True] * 3, [False] * 3]


def test_dropping_tokens_moves_what_is_left_to_the_right() -> None:
    keep = torch.tensor([[False, True, True], [True, False, False], [True, True, True]])
    kept, columns = TokenSet.whole(layout()).restrict(keep)
    assert kept.slots.tolist() == [[1, 3, 4, 5], [0, 1, 2, 5], [-1, 3, 4, 5]]
    assert columns is not None
    assert columns[:2].tolist() == kept.slots[:2].tolist()
    assert kept.visual_slots.tolist() == [[-1, 1, -1], [1, -1, -1], [-1, -1, -1]]
    assert kept.lengths.tolist() == [4, 4, 3]
    assert kept.padded


def test_nothing_moves_where_the_longest_row_keeps_all() -> None:
    keep = torch.tensor([[False, False, False], [True, True, True], [True, True, True]])
    kept, columns = TokenSet.whole(layout()).restrict(keep)
    assert columns is None
    assert kept.slots.tolist() == [[-1, 1, -1, -1, 4, 5], [0, 1, 2, 3, 4, 5], [-1, -1, -1, 3, 4, 5]]
    assert kept.position_ids.tolist() == [[0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 2]]


def test_a_set_that_loses_nothing_is_the_same_set() -> None:
    whole = TokenSet.whole(TokenLayout.from_prompt(PROMPTS[:, 3:], None, image_token_id=I))
    kept, columns = whole.restrict(torch.ones(3, 2, dtype=torch.bool))
    assert kept is whole
    assert columns is None


def test_a_padding_query_sees_itself_so_that_no_softmax_is_empty() -> None:
    mask = TokenSet.whole(layout()).prefill_mask()
    assert mask is not None
    assert mask.any(dim=-1).all()
    assert mask[2, 0].tolist() == [[i == j or 3 <= j <= i for j in range(6)] for i in range(6)]
