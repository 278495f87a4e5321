"""No reduction: the unpruned model, the baseline of every comparison."""

from dataclasses import dataclass
from typing import ClassVar

from dyrate.reduction import ReductionMethod


@dataclass(frozen=True)
class NoReduction(ReductionMethod):
    """The unpruned model."""

    name: ClassVar[str] = "none"
    title: ClassVar[str] = "Unpruned"
    changes_nothing: ClassVar[bool] = True
    keeps_everything = ({},)
