"""Decoding strategies, and sampling that belongs to the request."""

import pytest
import torch

from dyrate.errors import DyrateError
from dyrate.evaluation.decoding import decoding_slug, decoding_spec, seeded_sampling

VOCABULARY = 12


def _draw(requests: list[str], logits: torch.Tensor, steps: int = 1, **settings: float) -> torch.Tensor:
    processors = seeded_sampling(decoding_spec({"name": "top_p", **settings}), requests)
    ids = torch.zeros(len(requests), 1, dtype=torch.long)
    return torch.stack([processors(ids, logits.clone()).argmax(-1) for _ in range(steps)], dim=1)


@pytest.mark.parametrize(
    ("spec", "full"),
    [
        ("greedy", {"name": "greedy", "num_beams": 1, "do_sample": False}),
        ({"name": "greedy", "num_beams": 1}, {"name": "greedy", "num_beams": 1, "do_sample": False}),
        ("beam-2", {"name": "beam-2", "num_beams": 2, "do_sample": False}),
        ("beam-5", {"name": "beam-5", "num_beams": 5, "do_sample": False}),
        (
            {"name": "top_p", "top_p": 0.7},
            {"name": "top_p", "num_beams": 1, "do_sample": True, "top_p": 0.7, "temperature": 1.0, "seed": 0},
        ),
    ],
)
def test_a_spec_is_filled_in(spec: object, full: dict) -> None:
    assert decoding_spec(spec) == full
    assert decoding_spec(full) == full


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gready", "unknown decoding 'gready'; known: greedy, beam-2"),
        ("beam-1", "unknown decoding"),
        ({}, "has no name"),
        ({"name": "greedy", "top_p": 0.9}, "'greedy' has no setting 'top_p'; it has no settings"),
        ({"name": "beam-2", "num_beams": 3}, "means num_beams=2, not 3"),
        ({"name": "top_p", "p": 0.9}, "no setting 'p'; its settings are top_p, temperature, seed"),
        ({"name": "top_p", "top_p": 0}, r"decoding top_p: top_p: 0 is not a number from 0\.001 on"),
        ({"name": "top_p", "temperature": -1}, "decoding top_p: temperature: -1 is not a number from"),
        ({"name": "top_p", "seed": 0.5}, "seed: 0.5 is not a whole number"),
        ({"name": "top_p", "seed": -1}, "seed: -1 is not a whole number from 0 on"),
        ({"name": "top_p", "seed": 2**63}, "seed: 9223372036854775808 is not below 9223372036854775808"),
        ({"name": "top_p", "seed": True}, "seed: True is not a whole number"),
        *(
            (
                {"name": "top_p", "temperature": value},
                "decoding top_p: temperature: .* is not (a |at most 1000)",
            )
            for value in (1e-300, 5e-324, 1e300, float("inf"), float("nan"), 0, "1", None, True, [1])
        ),
        *(
            ({"name": "top_p", "top_p": value}, "decoding top_p: top_p: .* is not (a |at most 1)")
            for value in (1e-300, 1.5, float("nan"), float("-inf"), "0.9", None)
        ),
        ("beam-101", "unknown decoding 'beam-101'; known: .*up to 100"),
        ("beam-99999999", "unknown decoding"),
        (None, "decoding None has no name"),
        (["greedy"], "has no name"),
        ({"name": 1}, "has no name"),
    ],
)
def test_an_unfit_spec_is_refused(spec: object, message: str) -> None:
    with pytest.raises(DyrateError, match=message):
        decoding_spec(spec)


def test_a_request_draws_the_same_whatever_its_batch() -> None:
    logits = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0))
    together = _draw(["a", "b", "c", "d"], logits, steps=20)
    for row, name in enumerate("abcd"):
        assert torch.equal(_draw([name], logits[row : row + 1], steps=20)[0], together[row])
    backwards = _draw(["d", "c", "b", "a"], logits.flip(0), steps=20)
    assert torch.equal(backwards.flip(0), together)


def test_seeds_and_requests_draw_differently() -> None:
    logits = torch.zeros(1, VOCABULARY)
    draws = [_draw([name], logits, 30, seed=seed) for name in "ab" for seed in (0, 1)]
    assert len({tuple(draw[0].tolist()) for draw in draws}) == 4


def test_draws_follow_the_tempered_and_cut_distribution() -> None:
    logits = torch.linspace(0, 2, VOCABULARY)[None]
    count = 4000
    drawn = _draw([str(i) for i in range(count)], logits.expand(count, -1), top_p=0.6, temperature=0.5)
    expected = (logits[0] / 0.5).softmax(-1)
    kept = expected.sort(descending=True).values.cumsum(0) - expected.sort(descending=True).values < 0.6
    expected = torch.where(torch.arange(VOCABULARY) >= VOCABULARY - int(kept.sum()), expected, 0)
    expected = expected / expected.sum()
    frequency = torch.bincount(drawn[:, 0], minlength=VOCABULARY) / count
    assert torch.allclose(frequency, expected, atol=4 * (0.25 / count) ** 0.5)
    assert frequency[expected == 0].sum() == 0


@pytest.mark.parametrize("temperature", [0.001, 1000.0])
def test_the_ends_of_the_range_draw(temperature: float) -> None:
    logits = torch.linspace(-80, 80, VOCABULARY)[None]
    drawn = _draw(["a"], logits, steps=3, temperature=temperature, top_p=0.001)
    assert drawn.tolist() == [[VOCABULARY - 1] * 3]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0.0, float("nan"), 1.0], "nan"),
        ([float("nan")] * 3, "nan"),
        ([0.0, float("inf"), 1.0], "inf"),
        ([float("-inf")] * 3, "-inf|nan"),
    ],
)
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_scores_that_are_no_distribution_are_not_drawn_from(row: list, said: str, top_p: float) -> None:
    draw = seeded_sampling(decoding_spec({"name": "top_p", "top_p": top_p}), ["a", "b"])
    ids, fine = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 3)
    draw(ids, fine)
    with pytest.raises(
        DyrateError, match=rf"step 1, row 1 of the batch: the best score is ({said}) \(float32\)"
    ):
        draw(ids, torch.tensor([[0.0, 1.0, 2.0], row]))
    draw = seeded_sampling(decoding_spec("top_p"), ["a"])
    draw(ids[:1], torch.tensor([[0.0, float("-inf"), 1.0]]))  # a token that is forbidden is none


def test_settings_of_one_strategy_have_file_names_of_their_own():
    assert decoding_slug({"name": "beam-2", "num_beams": 2}) == "beam-2"
    assert decoding_slug(decoding_spec("top_p")) == decoding_slug({"name": "top_p"}) == "top_p"
    assert decoding_slug(decoding_spec({"name": "top_p", "top_p": 0.7})) == "top_p-top_p=0.7"
    assert decoding_slug({"name": "top_p", "top_p": 1}) == decoding_slug({"name": "top_p", "top_p": 1.0})
    assert decoding_spec({"name": "greedy", "num_beams": 1.0})["num_beams"] == 1
