"""Collects class mass from the runs of an evaluation, batch by batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyrate.evaluation.visual_tokens import decode_steps
from dyrate.run import Run


class Recorder:
    """Takes the class mass of the runs that it is shown: an observer for `DyrateModel`.

    Every layer must have been recorded, and rows must be samples: no beams.
    """

    def __init__(self) -> None:
        self.samples: dict[int, NDArray[np.float32]] = {}
        """By sample, class mass [steps, layers, 4], mean over heads."""
        # By step: the sum [layers, heads, 4] over samples, and how many they are.
        self._sums: list[NDArray[np.float64]] = []
        self._counts: list[int] = []

    def __call__(self, doc_ids: Sequence[int], run: Run, made: Tensor, ends: int | Sequence[int]) -> None:
        """Take one batch: `made` is LongTensor [rows, new tokens], rows are those of `doc_ids`."""
        by_layer = run.class_mass
        mass = torch.stack([by_layer[layer] for layer in sorted(by_layer)], dim=1).cpu()
        mean = mass.mean(dim=3).numpy()  # [steps, layers, rows, 4]
        steps = 1 + decode_steps(made, ends)  # the last one yields the end token
        for row, (sample, count) in enumerate(zip(doc_ids, steps.tolist(), strict=True)):
            self.samples[sample] = mean[:count, :, row].copy()
            self._add(mass[:count, :, row].double().numpy())

    @property
    def heads(self) -> NDArray[np.float32]:
        """Class mass [steps, layers, heads, 4], mean over the samples that get to the step."""
        means = [total / count for total, count in zip(self._sums, self._counts, strict=True)]
        return np.stack(means).astype(np.float32)

    def _add(self, mass: NDArray[np.float64]) -> None:
        for step, found in enumerate(mass):
            if step == len(self._sums):
                self._sums.append(np.zeros_like(found))
                self._counts.append(0)
            self._sums[step] += found
            self._counts[step] += 1
