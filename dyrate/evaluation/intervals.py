"""Confidence intervals: a seeded bootstrap over independent units, alone or paired with a baseline.

A statistic here is a function of the units' mean columns in each stratum (one stratum unless the benchmark
sums over categories). That covers means, ratios such as F1, and MME's sum of category scores, and lets all
resamples be drawn as one matrix product.

An interval is None where the units say nothing about the spread: a stratum of one unit, or resamples that are
all equal (`varies`). A share of which every unit or none is right still has the exact interval of Clopper and
Pearson (1934), and a difference that is the same in many units is taken at its word.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Mean columns, each [..., strata], to the statistic [...].
Statistic = Callable[[Mapping[str, Array]], Array]

Interval = tuple[float, float] | tuple[None, None]

LEVEL = 0.95
RESAMPLES = 2000
FEW = 30  # below so many units, a bootstrap is visibly too narrow and equal differences are no evidence
_CHUNK = 4_000_000  # counts held at once: 32 MB


@dataclass(frozen=True)
class Units:
    """What is resampled: `names` of n units, `columns` of n numbers, each unit's `stratum` (an index)."""

    names: tuple[str, ...]
    columns: Mapping[str, Array]
    stratum: NDArray[np.int64]
    strata: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def members(self) -> list[NDArray[np.intp]]:
        """The indices of each stratum's units."""
        return [np.flatnonzero(self.stratum == index) for index in range(len(self.strata))]

    @property
    def smallest(self) -> int:
        """Units of the smallest stratum."""
        return min(map(len, self.members))


def estimate(units: Units, statistic: Statistic) -> float:
    """The statistic of the units themselves."""
    means = {
        name: np.array([column[rows].mean() for rows in units.members])
        for name, column in units.columns.items()
    }
    return float(statistic(means))


def bootstrap(
    units: Units, statistics: Mapping[str, Statistic], seed: int, resamples: int = RESAMPLES
) -> dict[str, Array]:
    """Each statistic of `resamples` resamples, units drawn with replacement within their stratum.

    The draws depend on the seed and on the units' names and strata alone: two runs over the same units see
    the same resamples, which is what pairs them. The variance of a resampled mean of n units is too small by
    (n - 1) / n: in a stratum of fewer than `FEW`, the distance from the mean is stretched by
    sqrt(n / (n - 1)), within the range of the units.
    """
    signature = zlib.crc32("\0".join(units.names).encode())
    generator = np.random.default_rng([seed, signature])
    names = list(units.columns)
    table = np.stack([units.columns[name] for name in names], axis=1)
    means = np.empty((resamples, len(units.strata), len(names)))
    for index, rows in enumerate(units.members):
        size = max(1, _CHUNK // len(rows))
        for start in range(0, resamples, size):
            stop = min(start + size, resamples)
            counts = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=stop - start)
            means[start:stop, index] = counts @ table[rows] / len(rows)
        if 1 < len(rows) < FEW:
            middle, stretch = table[rows].mean(0), np.sqrt(len(rows) / (len(rows) - 1))
            stretched = middle + stretch * (means[:, index] - middle)
            means[:, index] = np.clip(stretched, table[rows].min(0), table[rows].max(0))
    columns = {name: means[:, :, position] for position, name in enumerate(names)}
    return {name: np.asarray(statistic(columns)) for name, statistic in statistics.items()}


def percentile_interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """The central interval that holds `level` of the draws."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def varies(draws: Array) -> bool:
    """Whether the draws differ by more than rounding."""
    return bool(np.ptp(draws) > 1e-9 * max(1.0, float(np.abs(draws).max())))


def score_interval(units: Units, draws: Array, share: Array | None = None) -> Interval:
    """A score's interval; `share` is the 0/1 column of which it is the mean in percent, if it is one.

    Percentiles of the draws where they vary. Otherwise, for a share, Clopper and Pearson's; else none.
    """
    if units.smallest < 2:
        return None, None
    if varies(draws):
        return percentile_interval(draws)
    if share is None or len(units.strata) > 1:
        return None, None
    reach = 100 * ((1 - LEVEL) / 2) ** (1 / len(units))
    if np.all(share == 1):
        return reach, 100.0
    return (0.0, 100.0 - reach) if np.all(share == 0) else (None, None)


def difference_interval(units: Units, draws: Array) -> Interval:
    """A paired difference's interval; none where it is the same in fewer than `FEW` units."""
    if units.smallest < 2 or (len(units) < FEW and not varies(draws)):
        return None, None
    return percentile_interval(draws)
