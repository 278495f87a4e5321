"""Stepwise pruning in plain Python: numbers of one row, one step after the other."""

import math
from pathlib import Path

import torch
from torch import Tensor

from dyrate.methods.depth_prune import DepthBasedPrune
from dyrate.methods.dyrate import DyRate
from dyrate.methods.fixed_prune import FixedPrune
from dyrate.methods.replay import Replay
from dyrate.methods.stepwise_pruning import StepwisePruning
from dyrate.predictors import load_predictor
from tests.runtime.probes import best
from tests.runtime.reference import Rule
from tests.runtime.tiny_predictors import SCHEDULE
from tests.tiny import NUM_LAYERS


def rule_of(method: StepwisePruning) -> Rule:
    """A new rule for one row of a method with its fields."""
    if isinstance(method, DyRate):
        return DyRateRule(method)
    if isinstance(method, Replay):
        return ReplayRule(method)
    assert isinstance(method, FixedPrune | DepthBasedPrune)
    return StepwiseRule(method, method.rate + getattr(method, "correction", 0.0))


class StepwiseRule(Rule):
    def __init__(self, method: StepwisePruning, constant: float = math.nan):
        self.method, self.constant = method, constant
        self.layers, self.evicts = (method.layer,), method.mode == "evict"
        self.wanted = 0

    def rate(self, step: int) -> float:
        return self.constant

    def scores(self, step: int, attention: list[float]) -> list[float]:
        return attention

    def count(self, step: int, visual: int) -> int:
        wanted = max(round((1 - self.rate(step)) * visual), round(self.method.minimum * visual))
        if step and (self.method.monotone or self.evicts):
            wanted = min(wanted, self.wanted)
        self.wanted = wanted if step or self.method.prune_prefill else visual
        return wanted

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        wanted = self.count(0, visual)
        return best(self.scores(0, scores), held, wanted) if self.method.prune_prefill else held

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        if self.method.mode == "none":
            return held
        wanted = self.count(step, visual)
        if self.evicts and len(held) - wanted < self.method.evict_at_least:
            return held
        return best(self.scores(step, scores), held, wanted)


class ReplayRule(StepwiseRule):
    def rate(self, step: int) -> float:
        assert isinstance(self.method, Replay)
        return [*self.method.rates, *[self.method.rates[-1]] * step][step]


class DyRateRule(StepwiseRule):
    def __init__(self, method: DyRate):
        super().__init__(method)
        self.learned = load_predictor(Path(method.predictor))
        self.scheduled = method.rates == "schedule"
        self.lagged = self.learned.config.lagged if method.mode == "select" else ()
        self.lags = bool(self.lagged)
        around = {layer + below for layer in self.lagged for below in (0, 1)}
        self.layers = tuple(sorted({method.layer, *around} & set(range(NUM_LAYERS))))
        self.chosen: dict[int, list[int]] = {}

    def rate(self, step: int) -> float:
        if self.scheduled:
            return SCHEDULE[min(step, len(SCHEDULE) - 1)]
        mass = self.seen.class_mass[self.method.layer - 1][None, : step + 1]
        likeliest: int = self.learned.rate(mass)[0, -1].argmax().item()
        return likeliest / self.learned.config.rates

    def scores(self, step: int, attention: list[float]) -> list[float]:
        ranker = self.learned.decode_ranker if step else self.learned.prefill_ranker
        lagged: list[Tensor] = []
        if step and self.before is not None:
            lagged = [self.before.head_scores[layer][step - 1] for layer in self.lagged]
        elif step and self.lags:
            return attention  # Not known yet: anything will do.
        if ranker is None:
            return lagged[-1].mean(dim=0).tolist() if lagged else attention
        shallow = [self.seen.head_scores[layer][step] for layer in range(self.method.layer)]
        inputs = (torch.cat([*shallow, *lagged]).T + 1e-5).log()
        learned: list[float] = ranker.head(ranker.standardise(inputs)).flatten().tolist()
        return learned

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return super().prefill(layer, scores, held, visual) if layer == self.method.layer else held

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        if layer == self.method.layer:
            self.chosen[step] = super().decode(layer, step, scores, held, visual)
        return held if layer in self.lagged else self.chosen[step]
