"""Does visual attention decay as the answer grows? Statistics of class mass over the steps of answers.

A sample's class mass is an array [steps, layers, 4] (sys, img, ins, res; averaged over heads) of its real
steps only, under the sample's number. Samples are the independent units of every interval.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from dyrate.evaluation.intervals import Array, Interval, Units, bootstrap, difference_interval, score_interval
from dyrate.evaluation.results import Estimate
from dyrate.tokens import TokenClass
from dyrate.trace.files import Band, Curve, Quantity, Trend, Trends

Mass = NDArray[np.float32]

GROWING = 4  # steps: a shorter answer has no last quarter, and one of a single word does not grow at all


def shares(mass: Mass) -> dict[Quantity, Array]:
    """Each quantity [steps] of a sample, mean over layers.

    `img` and `res` are class mass, `img_of_prompt` is the image's part of what goes to the prompt. Every
    generated token draws attention away from all before it: where `img` falls and `img_of_prompt` does not,
    the image makes room for the response and no more than the rest of the prompt does.
    """
    wide = mass.astype(np.float64)
    img, res = wide[..., TokenClass.IMG], wide[..., TokenClass.RES]
    of_prompt = img / np.maximum(1 - res, np.finfo(np.float64).tiny)
    return {"img": img.mean(axis=1), "res": res.mean(axis=1), "img_of_prompt": of_prompt.mean(axis=1)}


def grows(mass: Mass) -> bool:
    """Whether an answer is long enough to have a trend."""
    return len(mass) >= GROWING


def trends(samples: Mapping[int, Mass], seed: int) -> Trends | None:
    """The trend of each quantity over the answers that grow; None where most of them do not."""
    growing = {sample: shares(mass) for sample, mass in samples.items() if grows(mass)}
    if not growing or 2 * len(growing) < len(samples):
        return None

    def over_samples(quantity: Quantity) -> Trend:
        return trend({sample: found[quantity] for sample, found in growing.items()}, seed)

    return {
        "img": over_samples("img"),
        "res": over_samples("res"),
        "img_of_prompt": over_samples("img_of_prompt"),
    }


def trend(series: Mapping[int, Array], seed: int) -> Trend:
    """The trend of one quantity, of which each sample has its values [steps]."""

    def over_samples(statistic: Callable[[Array], float]) -> dict[int, float]:
        return {sample: statistic(values) for sample, values in series.items()}

    first, last = over_samples(lambda values: float(values[0])), over_samples(last_quarter)
    change = {sample: last[sample] - first[sample] for sample in series}
    return {
        "first": float(np.mean(list(first.values()))),
        "last": float(np.mean(list(last.values()))),
        "difference": _difference(change, seed),
        "rank_correlation": _mean(over_samples(rank_correlation), seed),
        "slope": _mean(over_samples(slope), seed),
        "never_rises": _percentage(over_samples(lambda values: float((np.diff(values) <= 0).all())), seed),
        "never_falls": _percentage(over_samples(lambda values: float((np.diff(values) >= 0).all())), seed),
    }


def curve(samples: Mapping[int, Mass], seed: int) -> Curve:
    """Image and response mass at each step, mean over layers and over the samples that reach it."""
    found = {sample: shares(mass) for sample, mass in samples.items()}
    reached = _reached(samples)

    def band(quantity: Quantity) -> Band:
        means = [
            _mean({sample: float(found[sample][quantity][step]) for sample in names}, seed)
            for step, names in enumerate(reached)
        ]
        return {
            "mean": [mean["value"] for mean in means],
            "low": [mean["low"] for mean in means],
            "high": [mean["high"] for mean in means],
        }

    return {"samples": [len(names) for names in reached], "img": band("img"), "res": band("res")}


def by_layer(samples: Mapping[int, Mass]) -> list[list[float]]:
    """Image mass by step and layer, mean over the samples that reach the step."""
    image = {name: mass[:, :, TokenClass.IMG].astype(np.float64) for name, mass in samples.items()}
    return [
        [float(mean) for mean in np.mean([image[name][step] for name in names], axis=0)]
        for step, names in enumerate(_reached(samples))
    ]


def last_quarter(values: Array) -> float:
    """Mean over the last quarter of `values` [steps], rounded down to whole steps but at least one."""
    return float(values[-max(1, len(values) // 4) :].mean())


def rank_correlation(values: Array) -> float:
    """Spearman's correlation of `values` [steps] with their position; 0 where all are equal."""
    _, kinds, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts + 1) / 2)[kinds]  # equal values share the mean of their ranks
    ranks -= ranks.mean()
    steps = _centred_steps(values)
    spread = np.sqrt((steps @ steps) * (ranks @ ranks))
    return float(steps @ ranks / spread) if spread else 0.0


def slope(values: Array) -> float:
    """Least-squares change per step of `values` [steps]."""
    steps = _centred_steps(values)
    return float(steps @ values / (steps @ steps))


def _centred_steps(values: Array) -> Array:
    return np.arange(len(values), dtype=np.float64) - (len(values) - 1) / 2


def _reached(samples: Mapping[int, Mass]) -> list[list[int]]:
    """By step, the samples whose answer gets there."""
    longest = max(len(mass) for mass in samples.values())
    return [[name for name, mass in samples.items() if len(mass) > step] for step in range(longest)]


def _mean(column: Mapping[int, float], seed: int) -> Estimate:
    units, draws = _bootstrapped(column, seed)
    return _estimate(units, score_interval(units, draws))


def _percentage(column: Mapping[int, float], seed: int) -> Estimate:
    units, draws = _bootstrapped(column, seed)
    return _estimate(units, score_interval(units, 100 * draws, units.columns["value"]), 100)


def _difference(column: Mapping[int, float], seed: int) -> Estimate:
    units, draws = _bootstrapped(column, seed)
    return _estimate(units, difference_interval(units, draws))


def _bootstrapped(column: Mapping[int, float], seed: int) -> tuple[Units, Array]:
    """A number per sample as units, and the means of their resamples."""
    units = Units(
        names=tuple(map(str, column)),
        columns={"value": np.array(list(column.values()))},
        stratum=np.zeros(len(column), np.int64),
        strata=("",),
    )
    return units, bootstrap(units, {"mean": lambda means: means["value"][..., 0]}, seed)["mean"]


def _estimate(units: Units, interval: Interval, scale: float = 1) -> Estimate:
    return {"value": float(scale * units.columns["value"].mean()), "low": interval[0], "high": interval[1]}
