"""Methods that choose anew while the answer grows, in plain Python: one row, step and token at a time."""

import math
from typing import Any

import torch
from torch import Tensor

from dyrate.methods.annealing import Annealing
from dyrate.methods.dycoke import DyCoke
from dyrate.methods.visionpulse import VisionPulse
from tests.runtime.probes import best
from tests.runtime.reference import Rule, run_layer
from tests.tiny import IMAGE, NUM_LAYERS


class VisionPulseRule(Rule):
    def __init__(self, method: VisionPulse) -> None:
        self.method = method
        anchor = math.floor(17 / 36 * NUM_LAYERS) if method.anchor is None else method.anchor
        self.layers = (anchor + (method.unit == "blocks"),)

    def features(self, model: Any, pixels: Tensor) -> None:
        self.text = model.model.language_model

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        self.rows = self.attention
        if self.method.unit == "tokens":
            everything = torch.ones(len(self.states), len(self.states)).tril().bool()
            _, self.rows = run_layer(self.text.layers[layer], self.states, everything, self.positions)
        return held

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        tokens = len(self.prompt) + step
        row = self.rows[:, tokens - 1, :tokens].double()
        image = [column for column, token in enumerate(self.prompt) if token == IMAGE]
        exponents = [[w ** (1 / self.method.temperature) for w in head] for head in row.tolist()]
        if self.method.unit == "blocks":
            return self.blocks(exponents, image)
        masses = [sum(head[column] for column in image) / sum(head) for head in exponents]
        logarithms = [float(row[:, column].log().mean()) for column in image]
        return best(logarithms, held, max(1, math.floor(self.share(masses) * visual)))

    def blocks(self, exponents: list[list[float]], image: list[int]) -> list[int]:
        size, tokens = self.method.block, len(exponents[0])
        blocks = [list(range(first, min(tokens, first + size))) for first in range(0, tokens, size)]
        pure = [n for n, own in enumerate(blocks) if len(own) == size and set(own) <= set(image)]
        largest = [[max(head[column] for column in own) for own in blocks] for head in exponents]
        shares = [[value / sum(head) for value in head] for head in largest]
        share = self.share([sum(head[n] for n in pure) for head in shares])
        means = [sum(head[n] for head in shares) / len(shares) for n in range(len(blocks))]
        kept = best(means, pure, max(1, math.ceil(share * len(image) / size)))
        gone = [column for n in pure if n not in kept for column in blocks[n]]
        return [index for index, column in enumerate(image) if column not in gone]

    def share(self, masses: list[float]) -> float:
        return min(max(max(masses), self.method.least), self.method.most)


class DyCokeRule(Rule):
    def __init__(self, method: DyCoke) -> None:
        self.method, self.layers = method, (method.layer,)
        self.before_step: list[float] = []
        self.last: list[int] = []

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        cosine = 0.0
        if self.before_step:
            product = sum(a * b for a, b in zip(scores, self.before_step, strict=True))
            cosine = product / math.hypot(*scores) / math.hypot(*self.before_step)
        self.before_step = scores
        if cosine < self.method.threshold:
            self.last = best(scores, held, math.floor(visual * (1 - self.method.rate)))
            return self.last
        return held if self.method.unmoved == "all" else self.last


class AnnealingRule(Rule):
    evicts = True

    def __init__(self, method: Annealing) -> None:
        self.method = method
        self.layers = tuple(range(method.layer, NUM_LAYERS, method.stride))

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return self.left(layer, 0, scores, held, visual)

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return self.left(layer, step, scores, held, visual)

    def left(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        method, share = self.method, 1.0
        for _ in range(self.layers.index(layer) + 1):
            share *= 1 - method.rate
        way = min(1.0, step / method.span)
        if method.decay == "cosine":
            way = 0.5 - 0.5 * math.cos(math.pi * way)
        return best(scores, held, round(visual * share * (1 - way + way * method.least)))
