"""Methods that compare the question with the image, in plain Python: one row and one token at a time."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.runtime.example_rules import (
    AtLayerZero,
    instruction,
    question_features,
    tower_layer,
    visual_projection,
)
from tests.runtime.probes import best
from tests.tiny import VISUAL_TOKENS


def images(tokens: int) -> list[list[int]]:
    """The tokens of each image."""
    return [list(range(first, first + VISUAL_TOKENS)) for first in range(0, tokens, VISUAL_TOKENS)]


class QuestionRule(AtLayerZero):
    """What it does depends on the prompt, so that features are made on entering layer 0."""

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.tower = tower_layer(model, pixels)[2]
        normed = [torch.layer_norm(state, [16], *norm_of(tower)) for state in self.tower]
        self.embeds = [state @ visual_projection() for state in normed]
        features: Tensor = self.projector(self.tower)
        self.projected = features
        return features

    def question(self) -> Tensor:
        return question_features(" ".join(str(self.prompt[column]) for column in instruction(self.prompt)))


def norm_of(tower: Any) -> tuple[Tensor, Tensor]:
    return tower.post_layernorm.weight, tower.post_layernorm.bias


class CDPrunerRule(QuestionRule):
    """Each time the token with which the determinant of those chosen is the largest."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        kept: list[int] = []
        for own in images(visual):
            cosines = [
                -float(torch.cosine_similarity(self.embeds[token], self.question(), dim=0)) for token in own
            ]
            low, high = min(cosines), max(cosines)
            relevance = [(value - low + 1e-6) / (high - low) for value in cosines]
            features = [self.projected[token].double() for token in own]
            kernel = [
                [
                    relevance[i]
                    * relevance[j]
                    * float(torch.cosine_similarity(features[i], features[j], dim=0))
                    for j in range(VISUAL_TOKENS)
                ]
                for i in range(VISUAL_TOKENS)
            ]
            chosen: list[int] = []
            for _ in range(round(VISUAL_TOKENS * (1 - self.rate))):
                others = [token for token in range(VISUAL_TOKENS) if token not in chosen]
                chosen.append(max(others, key=lambda token: determinant(kernel, [*chosen, token])))
            kept += [own[token] for token in chosen]
        return kept


def determinant(kernel: list[list[float]], items: list[int]) -> float:
    return float(np.linalg.det(np.array([[kernel[i][j] for j in items] for i in items])))


class TRIMRule(QuestionRule):
    def __init__(self, rate: float | None, similarity: str, spread: float) -> None:
        self.rate, self.cosine, self.spread = rate, similarity == "cosine", spread

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        kept: list[int] = []
        self.means: dict[int, Tensor] = {}
        for own in images(visual):
            exponents = [math.exp(self.similarity(token)) for token in own]
            shares = [value / sum(exponents) for value in exponents]
            if self.rate is None:
                low, high = np.percentile(shares, [25, 75])
                stay = [
                    t
                    for t, share in zip(own, shares, strict=True)
                    if share > high + self.spread * (high - low)
                ]
            else:
                stay = [own[i] for i in best(shares, list(range(16)), int(16 * (1 - self.rate)))]
            gone = [token for token in own if token not in stay]
            if gone:
                self.means[gone[-1]] = self.projector(self.tower[gone].mean(0))
            kept += [*stay, *gone[-1:]]
        return kept

    def similarity(self, token: int) -> float:
        if self.cosine:
            return float(torch.cosine_similarity(self.embeds[token], self.question(), dim=0))
        return -float(self.embeds[token] @ self.question())

    def merge(self, layer: int, states: Tensor, held: list[int], kept: list[int]) -> Tensor:
        merged = states.clone()
        for token, mean in self.means.items():
            merged[token] = mean
        return merged

    def order(self, layer: int, kept: list[int]) -> list[int]:
        return [token for own in images(max(kept) + 1) for token in self.last(own, kept)]

    def last(self, own: list[int], kept: list[int]) -> list[int]:
        return sorted(
            (token for token in own if token in kept), key=lambda token: (token in self.means, token)
        )
