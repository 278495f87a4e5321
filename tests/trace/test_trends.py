"""What is said of class mass, against figures worked out by hand."""

import numpy as np
import pytest

from dyrate.trace.trends import by_layer, curve, rank_correlation, shares, slope, trend, trends
from tests.trace.fake import captions, mass

# Eight steps: the last quarter is two.
FALLING = [0.8, 0.7, 0.6, 0.5, 0.4, 0.4, 0.3, 0.1]
BUMPY = [0.8, 0.7, 0.6, 0.7, 0.4, 0.4, 0.3, 0.1]
RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def test_the_change_is_the_last_quarter_minus_step_0_paired_per_sample() -> None:
    found = trend({0: np.array(FALLING), 1: np.array(RISING)}, seed=0)
    # last quarters 0.2 and 0.75, first steps 0.8 and 0.1: changes -0.6 and 0.65
    assert found["first"] == pytest.approx(0.45)
    assert found["last"] == pytest.approx(0.475)
    assert found["difference"]["value"] == pytest.approx(0.025)


@pytest.mark.parametrize(("steps", "last"), [(4, 0.1), (7, 0.1), (8, 0.15), (11, 0.15), (12, 0.2)])
def test_the_last_quarter_is_rounded_down(steps: int, last: float) -> None:
    values = np.array([1.0] * (steps - 3) + [0.3, 0.2, 0.1])
    assert trend({0: values}, seed=0)["last"] == pytest.approx(last)


def test_spearman_and_slope_by_hand() -> None:
    assert rank_correlation(np.array([0.9, 0.5, 0.1])) == pytest.approx(-1)
    # ranks 1, 0, 2: covariance 1, variances 2 and 2
    assert rank_correlation(np.array([0.2, 0.1, 0.9])) == pytest.approx(0.5)
    # ranks 0.5, 0.5, 2 minus their mean: -0.5, -0.5, 1; covariance 1.5, variances 2 and 1.5
    assert rank_correlation(np.array([0.1, 0.1, 0.9])) == pytest.approx(1.5 / 3**0.5)
    assert rank_correlation(np.array([0.3, 0.3, 0.3, 0.3])) == 0
    # deviations from the middle step: -1, 0, 1; (0.9 - 0.2) / 2
    assert slope(np.array([0.2, 0.1, 0.9])) == pytest.approx(0.35)


def test_monotone_answers_are_counted() -> None:
    found = trend({0: np.array(FALLING), 1: np.array(BUMPY), 2: np.array(RISING), 3: np.array(FALLING)}, 0)
    assert found["never_rises"]["value"] == 50
    assert found["never_falls"]["value"] == 25


def test_no_monotone_answer_still_has_an_exact_upper_bound() -> None:
    found = trend({sample: np.array(BUMPY) + sample / 1000 for sample in range(50)}, seed=0)
    assert found["never_rises"]["value"] == found["never_rises"]["low"] == 0
    assert found["never_rises"]["high"] == pytest.approx(100 * (1 - 0.025 ** (1 / 50)))


def test_an_interval_covers_its_mean_and_tightens_with_samples() -> None:
    few, many = (trends(captions(samples=n), seed=0) for n in (10, 80))
    assert few is not None
    assert many is not None
    widths = []
    for found in (few, many):
        change = found["img"]["difference"]
        assert change["low"] is not None
        assert change["high"] is not None
        assert change["low"] < change["value"] < change["high"] < 0
        widths.append(change["high"] - change["low"])
    assert widths[1] < widths[0] / 2


def test_an_image_that_only_makes_room_keeps_its_part_of_the_prompt() -> None:
    response = [0.1 * t for t in range(8)]
    samples = {s: mass([0.6 * (1 - res) for res in response], response) for s in range(4)}
    found = trends(samples, seed=0)
    assert found is not None
    assert found["img"]["difference"]["value"] == pytest.approx(-0.6 * 0.65)
    assert found["res"]["difference"]["value"] == pytest.approx(0.65)
    assert found["img_of_prompt"]["difference"]["value"] == pytest.approx(0, abs=1e-6)


def test_shares_are_means_over_layers() -> None:
    two = np.zeros((1, 2, 4), np.float32)
    two[0, 0] = [0.1, 0.5, 0.4, 0.0]
    two[0, 1] = [0.1, 0.2, 0.2, 0.5]
    found = shares(two)
    assert found["img"] == pytest.approx([0.35])
    assert found["res"] == pytest.approx([0.25])
    assert found["img_of_prompt"] == pytest.approx([(0.5 + 0.4) / 2])


def test_answers_of_one_word_have_no_trend() -> None:
    words = {sample: mass([0.6, 0.5]) for sample in range(10)}
    assert trends(words, seed=0) is None
    longer = {sample: mass(FALLING) for sample in range(10, 15)}
    assert trends(words | longer, seed=0) is None  # a third of the answers does not speak for all
    assert trends({0: words[0]} | longer, seed=0) is not None


def test_a_short_answer_among_long_ones_does_not_count() -> None:
    long = {sample: mass(FALLING) for sample in range(5)}
    assert trends(long | {5: mass([0.1, 0.9])}, seed=0) == trends(long, seed=0)


def test_curve_and_layers_are_over_the_samples_that_get_there() -> None:
    samples = {0: mass([0.2, 0.4]), 1: mass([0.6, 0.8, 0.5])}
    found = curve(samples, seed=0)
    assert found["samples"] == [2, 2, 1]
    assert found["img"]["mean"] == pytest.approx([0.4, 0.6, 0.5])
    assert found["img"]["low"][2] is None
    low, high = found["img"]["low"][0], found["img"]["high"][0]
    assert low is not None
    assert high is not None
    assert 0.2 < low + 1e-6 < 0.4 < high < 0.6 + 1e-6
    assert np.array(by_layer(samples)) == pytest.approx(np.repeat([[0.4], [0.6], [0.5]], 3, axis=1))
