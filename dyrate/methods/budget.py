"""A budget in place of a method's own fields: the mean share of visual tokens that a layer has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dyrate.errors import DyrateError
from dyrate.reduction import PrefillView, ReductionMethod, hyperparameter

_STEPS = 60
_NEAR = 1e-9


def budget_of(*fields: str) -> Any:
    """Declare the field `budget`, which stands for `fields`."""
    return hyperparameter(
        "mean share of the visual tokens that a layer has at prefill; stands for "
        + " and ".join(f"`{field}`" for field in fields),
        default=None,
        minimum=0,
        maximum=1,
        replaces=fields,
    )


@dataclass(frozen=True)
class RateOrBudget(ReductionMethod):
    """What drops a share of the visual tokens once, on entering layer K: its field `layer`, or else 0."""

    rate: float = hyperparameter(
        "share R of the visual tokens that is dropped", default=0.5, minimum=0, maximum=1
    )
    budget: float | None = budget_of("rate")

    def check(self, num_layers: int, num_heads: int) -> None:
        """Raise `DyrateError` also for a budget that the layers above K have used up."""
        super().check(num_layers, num_heads)
        self.rate_in(num_layers)

    def rate_at(self, view: PrefillView) -> float:
        """Return R, of the model that is being run."""
        return self.rate if self.budget is None else self.rate_in(view.depth)

    def rate_in(self, depth: int) -> float:
        """Return R, of a language model of `depth` layers: with a budget b, (1 - b) / (1 - K / depth)."""
        if self.budget is None:
            return self.rate
        whole = getattr(self, "layer", 0) / depth
        rate = (1 - self.budget) / (1 - whole)
        if rate > 1 + _NEAR:
            raise below(self, whole)
        return min(rate, 1)


def solved(method: ReductionMethod, budget: float, mean: Callable[[float], float]) -> float:
    """Return the x from 0 to 1 whose `mean`, which rises with it, is the budget.

    Raises `DyrateError` where even that of 0 is above it.
    """
    low, high = 0.0, 1.0
    if mean(low) > budget + _NEAR:
        raise below(method, mean(low))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < budget else (low, middle)
    return high


def below(method: ReductionMethod, least: float) -> DyrateError:
    """Return what is said of a budget that cannot be had."""
    return DyrateError(
        f"{method}: layers have {least:.4g} of the visual tokens on average even if all leave that can; the "
        "budget must be at least that"
    )
