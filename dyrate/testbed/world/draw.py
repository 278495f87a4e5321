"""A deterministic source of choices that gives the same stream on every Python version."""

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """Draws that depend on nothing but the key; only `Random.random` is used, whose stream Python guarantees.

    Two different keys give independent streams. Keys are made of ints and strings.
    """

    __slots__ = ("uniform",)

    def __init__(self, *key: int | str) -> None:
        digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
        self.uniform = Random(int.from_bytes(digest, "little")).random

    def below(self, n: int) -> int:
        """Return an int in [0, n)."""
        return int(self.uniform() * n)

    def between(self, low: int, high: int) -> int:
        """Return an int in [low, high]."""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, share: float) -> bool:
        """Return True with probability `share`."""
        return self.uniform() < share

    def pick(self, items: Sequence[T]) -> T:
        """Return one item, all equally likely."""
        return items[int(self.uniform() * len(items))]

    def weighted(self, weights: dict[T, float]) -> T:
        """Return one key, with probability proportional to its value."""
        left = self.uniform() * sum(weights.values())
        for item, weight in weights.items():
            left -= weight
            if left < 0:
                return item
        return next(reversed(weights))

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order."""
        rest = list(items)
        for last in range(len(rest) - 1, 0, -1):
            other = int(self.uniform() * (last + 1))
            rest[last], rest[other] = rest[other], rest[last]
        return rest

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """Return n different items in a random order (all of them when there are fewer)."""
        return self.shuffled(items)[:n]
