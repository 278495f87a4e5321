"""Notices numbers that are not finite without waiting for the device: a NaN must never become an answer.

Each step leaves a witness of its logits, its class mass, and whatever else a method vouches for. They are
looked at when the host waits for the device anyway.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dyrate.errors import DyrateError

Witnesses = Mapping[str, Tensor]
"""Of one step, by what they vouch for: FloatTensor [batch], finite where all numbers of a row are."""


class NotFiniteError(DyrateError):
    """Numbers of a generation are NaN or infinite; `row` is that of the model's batch.

    Whoever knows says at which `step`, and, as the `cause`, by which method and in which dtype.
    """

    def __init__(self, name: str, row: int, step: int | None = None, cause: str | None = None) -> None:
        super().__init__(
            f"{'' if cause is None else f'{cause}: '}the {name} of row {row}"
            f"{'' if step is None else f' at step {step}'} are NaN or infinite: the weights are damaged, or "
            "their products do not fit the dtype (float32 has the most room)"
        )
        self.name, self.row = name, row


def witness(values: Tensor) -> Tensor:
    """FloatTensor [batch]: finite where all of a row of `values` [batch, ...] is."""
    if not values.numel():
        return torch.zeros(len(values), dtype=torch.float64, device=values.device)
    low, high = values.reshape(len(values), -1).aminmax(dim=1)
    return low.double() + high.double()


def check(steps: Sequence[Witnesses], first: int, cause: str) -> None:
    """Raise `NotFiniteError` for the first of `steps`, numbered from `first` on, with a witness that is not
    finite; `cause` names method and dtype. Waits for the device.
    """
    told = [
        (step, name, found) for step, by_name in enumerate(steps, first) for name, found in by_name.items()
    ]
    if not told:
        return
    sums = torch.stack([found.sum() for _, _, found in told])
    if not sums.sum().isfinite():
        step, name, found = told[int((~sums.isfinite()).int().argmax())]
        raise NotFiniteError(name, int((~found.isfinite()).int().argmax()), step, cause)
