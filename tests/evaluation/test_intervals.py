"""Intervals: seeded, of the right width, paired where they should be, stratified where they must be."""

import numpy as np
import pytest

from dyrate.evaluation.intervals import Units, bootstrap, estimate, percentile_interval


def mean(means):
    return means["x"][..., 0]


def total(means):
    return means["x"].sum(-1)


def units(values, strata=None) -> Units:
    names = tuple(map(str, range(len(values))))
    strata = strata or [0] * len(values)
    labels = tuple(str(label) for label in sorted(set(strata)))
    return Units(names, {"x": np.asarray(values, dtype=float)}, np.asarray(strata), labels)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others() -> None:
    data = units(np.arange(50))
    draw = [bootstrap(data, {"m": mean}, seed)["m"] for seed in (0, 0, 1)]
    assert np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])


def test_a_mean_has_the_interval_of_the_central_limit() -> None:
    data = units(np.random.default_rng(0).normal(5, 2, 400))
    low, high = percentile_interval(bootstrap(data, {"m": mean}, 0)["m"])
    assert estimate(data, mean) == pytest.approx(5, abs=0.3)
    assert high - low == pytest.approx(2 * 1.96 * data.columns["x"].std() / 20, rel=0.08)


def test_intervals_cover_at_about_their_level() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        data = units(generator.random(60) < 0.3)
        low, high = percentile_interval(bootstrap(data, {"m": mean}, 0, resamples=400)["m"])
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_strata_are_resampled_within_themselves() -> None:
    data = units([0.0] * 30 + [100.0] * 10, [0] * 30 + [1] * 10)
    draws = bootstrap(data, {"t": total}, 0)["t"]
    assert estimate(data, total) == 100
    assert np.allclose(draws, 100)  # no variance within a stratum, so none at all


@pytest.mark.parametrize("n", [4, 8, 20])
def test_small_strata_are_as_wide_as_the_unbiased_variance_says(n: int) -> None:
    values = np.random.default_rng(n).normal(0, 1, 2 * n)
    data = units(values, [0] * n + [1] * n)
    spread = bootstrap(data, {"t": total}, 0, resamples=20_000)["t"].std()
    exact = np.sqrt(values[:n].var(ddof=1) / n + values[n:].var(ddof=1) / n)
    assert spread == pytest.approx(exact, rel=0.03)


def test_two_runs_over_the_same_units_see_the_same_resamples() -> None:
    values = np.random.default_rng(2).random(80)
    one = bootstrap(units(values), {"m": mean}, 0)["m"]
    other = bootstrap(units(values + 0.25), {"m": mean}, 0)["m"]
    assert np.allclose(other - one, 0.25)


def test_many_units_are_drawn_in_pieces() -> None:
    data = units(np.ones(5000))
    assert bootstrap(data, {"m": mean}, 0, resamples=1000)["m"] == pytest.approx(1)
