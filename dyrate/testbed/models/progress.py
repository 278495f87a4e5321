"""What a training run has done so far, how fast it goes, and the share of its time that it waits for data."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dyrate.testbed.models.packing import PackedBatch
from dyrate.testbed.models.schedule import LearningRatePlan

LOOK_EVERY = 20  # steps between looks at the clock and the loss; a look waits for the GPU


@dataclass
class TrainingProgress:
    """What a run has done so far; with the weights and the optimiser's state, all that a resume needs."""

    plan: LearningRatePlan
    step: int = 0
    seconds: float = 0.0
    resumed: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainingProgress":
        """Rebuild from `dataclasses.asdict`."""
        return cls(**{**values, "plan": LearningRatePlan(**values["plan"])})


class Meter:
    """Clocks and averages of one session of a run."""

    def __init__(self, progress: TrainingProgress) -> None:
        self.progress = progress
        self._before = progress.seconds
        self._start = self._reported = time.perf_counter()
        self._settled: tuple[int, float] | None = None
        self.losses: list[Tensor] = []  # since the last report
        self._waited = 0.0
        self._taken = 0

    def waiting_for(self, batches: Iterator[PackedBatch]) -> PackedBatch:
        """Return the next batch, and time the wait for it."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, loss: Tensor) -> None:
        """Count one step and keep its loss, which may still be on its way."""
        self.losses.append(loss)
        self._taken += 1
        if self._taken == LOOK_EVERY:  # past compilation and the workers' first batches
            self._settled = (self.progress.step, time.perf_counter())

    def recent_loss(self) -> float:
        """Return the mean loss of the last few steps; waits for the device."""
        return float(torch.stack(self.losses[-LOOK_EVERY:]).mean())

    def seconds(self) -> float:
        """Return the seconds of this and all earlier sessions."""
        return self._before + time.perf_counter() - self._start

    def since_report(self) -> float:
        """Return the seconds since the last report."""
        return time.perf_counter() - self._reported

    def steps_per_second(self) -> float:
        """Return the rate since the run has settled, 0 before."""
        if self._settled is None:
            return 0.0
        step, moment = self._settled
        return (self.progress.step - step) / max(time.perf_counter() - moment, 1e-9)

    def report(self) -> tuple[float, float]:
        """Return (mean loss, share of the time spent waiting for data) since the last report; start anew."""
        loss = float(torch.stack(self.losses).mean())
        wait = self._waited / max(self.since_report(), 1e-9)
        self.losses, self._waited, self._reported = [], 0.0, time.perf_counter()
        return loss, wait
