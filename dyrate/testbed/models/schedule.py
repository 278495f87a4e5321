"""The learning rate as a function of the step: warm-up, plateau, linear decay to zero.

A plateau rather than a cosine, because a run may be given minutes instead of steps: when most of the time
is spent, the decay starts, over the steps that the rest of the time affords. The plan is then two integers,
so it is resumable, and a later run given those integers repeats it without a clock.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRatePlan:
    """Learning-rate plan: the decay runs from step `decay_start` to step `steps`, where the run ends."""

    decay_start: int
    steps: int

    def within(
        self, step: int, seconds: float, budget: float, steps_per_second: float, decay_share: float
    ) -> "LearningRatePlan":
        """Return the plan to follow after `step` steps and `seconds`, to end within `budget` seconds.

        Nothing changes before (1 - decay_share) of the budget is spent, nor once the decay has begun.
        """
        if step >= self.decay_start or seconds < (1 - decay_share) * budget:
            return self
        affordable = int(max(budget - seconds, 0) * steps_per_second)
        return LearningRatePlan(decay_start=step, steps=min(step + affordable, self.steps))

    def learning_rate(self, step: int, peak: float, warmup_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        if step < self.decay_start:
            return peak
        return peak * (self.steps - step) / max(self.steps - self.decay_start, 1)
