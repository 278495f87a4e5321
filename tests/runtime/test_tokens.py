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


def test_what_a_new_set_says_of_itself() -> None:
    whole = TokenSet.whole(layout())
    assert (whole.padded, whole.most_visual, whole.complete) == (True, 3, True)
    assert whole.visual_index.tolist() == layout().visual_index.tolist()
    assert whole.class_one_hot[1].argmax(-1).tolist() == [SYS, IMG, INS, IMG, IMG, INS]
    assert not whole.class_one_hot[0, 0].any()  # padding

    keep = torch.tensor([[True, True, True], [True, False, False], [True, True, True]])
    kept, _ = whole.restrict(keep)
    assert (kept.padded, kept.most_visual, kept.complete) == (True, 2, False)
    assert kept.next_position is None
    # Rows of one length have no padding, though the rows before were of several.
    keep = torch.tensor([[False, False, True], [False, False, False], [True, True, True]])
    even, columns = whole.restrict(keep, renumber=True)
    assert even.slots.tolist() == [[1, 4, 5], [0, 2, 5], [3, 4, 5]]
    assert (even.padded, even.most_visual, even.complete) == (False, 0, False)
    assert columns is not None
    assert even.next_position is not None
    assert even.next_position.tolist() == [3, 3, 3]


def test_only_padding_lost_is_nothing_lost() -> None:
    short = TokenSet.whole(TokenLayout.from_prompt(PROMPTS[::2], MASK[::2], image_token_id=I))
    kept, columns = short.restrict(torch.ones(2, 2, dtype=torch.bool))
    assert kept is short
    assert columns is None


def test_a_token_in_the_first_place_is_a_token() -> None:
    first = TokenSet.whole(TokenLayout.from_prompt(torch.tensor([[I, I, 4]]), None, image_token_id=I))
    assert first.visual_slots.tolist() == [[0, 1]]
    assert first.present.tolist() == [[True, True]]
    assert first.visual_counts.tolist() == [2]
    kept, _ = first.restrict(torch.tensor([[True, False]]))
    assert kept.slots.tolist() == [[0, 2]]
    assert kept.visual_slots.tolist() == [[0, -1]]
    assert (kept.most_visual, kept.complete) == (1, False)


def test_emptied_slots_stay_where_they_are() -> None:
    keep = torch.tensor([[False, True, True], [True, False, True], [True, True, True]])
    emptied = TokenSet.whole(layout()).without(keep)
    assert emptied.slots.tolist() == [[-1, 1, -1, 3, 4, 5], [0, 1, 2, -1, 4, 5], [-1, -1, -1, 3, 4, 5]]
    assert (emptied.padded, emptied.complete) == (True, False)
    assert emptied.present.tolist() == [[False, True, False], [True, False, True], [False] * 3]
    assert emptied.visual_index.tolist() == [
        [-1, -1, -1, 1, -1, -1],
        [-1, 0, -1, -1, 2, -1],
        [-1] * 6,
    ]


def test_instruction_slots_end_alike() -> None:
    assert TokenSet.whole(layout()).instruction_slots.tolist() == [[-1, 4, 5], [-1, 2, 5], [3, 4, 5]]


def test_blocked_classes_and_padding_are_hidden_from_generated_tokens() -> None:
    whole = TokenSet.whole(layout())
    mask = whole.decode_mask(2, frozenset({("res", "img")}))
    assert mask is not None
    assert mask[:, 0, 0].int().tolist() == [
        [0, 1, 0, 0, 1, 1, 1, 1],
        [1, 0, 1, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1, 1],
    ]
    full = TokenSet.whole(TokenLayout.from_prompt(PROMPTS[1:2], None, image_token_id=I))
    assert full.decode_mask(2) is None
    assert full.decode_mask(2, frozenset({("ins", "img")})) is None  # nothing that a generated token minds
    assert full.decode_mask(2, frozenset({("res", "img")})) is not None
    assert full.prefill_mask() is None
    hidden = full.prefill_mask(frozenset({("ins", "img")}))
    assert hidden is not None
    assert hidden[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 0, 1, 0, 0, 1],
    ]


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
