"""Confidence intervals: a seeded bootstrap over independent units, alone or paired with a baseline.

A statistic here is a function of the units' mean columns in each stratum (one stratum unless the benchmark
sums over categories). That covers means, ratios such as F1, and MME's sum of category scores, and lets all
resamples be drawn as one matrix product.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Mean columns, each [..., strata], to the statistic [...].
Statistic = Callable[[Mapping[str, Array]], Array]

LEVEL = 0.95
RESAMPLES = 2000
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


def estimate(units: Units, statistic: Statistic) -> float:
    """The statistic of the units themselves."""
    members = [np.flatnonzero(units.stratum == index) for index in range(len(units.strata))]
    means = {
        name: np.array([column[rows].mean() for rows in members]) for name, column in units.columns.items()
    }
    return float(statistic(means))


def bootstrap(
    units: Units, statistics: Mapping[str, Statistic], seed: int, resamples: int = RESAMPLES
) -> dict[str, Array]:
    """Each statistic of `resamples` resamples, units drawn with replacement within their stratum.

    The draws depend on the seed and on the units' names and strata alone: two runs over the same units see
    the same resamples, which is what pairs them.
    """
    signature = zlib.crc32("\0".join(units.names).encode())
    generator = np.random.default_rng([seed, signature])
    names = list(units.columns)
    table = np.stack([units.columns[name] for name in names], axis=1)
    members = [np.flatnonzero(units.stratum == index) for index in range(len(units.strata))]
    means = np.empty((resamples, len(members), len(names)))
    for index, rows in enumerate(members):
        for start, stop in _chunks(resamples, len(rows)):
            counts = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=stop - start)
            means[start:stop, index] = counts @ table[rows] / len(rows)
    columns = {name: means[:, :, position] for position, name in enumerate(names)}
    return {name: np.asarray(statistic(columns)) for name, statistic in statistics.items()}


def percentile_interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """The central interval that holds `level` of the draws."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _chunks(resamples: int, units: int) -> Iterator[tuple[int, int]]:
    size = max(1, min(resamples, _CHUNK // max(units, 1)))
    for start in range(0, resamples, size):
        yield start, min(start + size, resamples)
