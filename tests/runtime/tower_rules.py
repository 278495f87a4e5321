"""Rules of the methods that read the vision tower, in plain Python: one image and one token at a time."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.runtime.example_rules import SIDE, AtLayerZero
from tests.runtime.probes import best
from tests.tiny import VISUAL_TOKENS

EVERYONE = list(range(VISUAL_TOKENS))


class TowerOfImage:
    """What layers of the tower hold of one image: the class token, then its patches."""

    def __init__(self, model: Any, pixels: Tensor) -> None:
        self.tower = model.model.vision_tower
        self.states = [
            found[0] for found in self.tower(pixels[None], output_hidden_states=True).hidden_states
        ]

    def rows(self, layer: int) -> tuple[Tensor, Tensor, int]:
        """Queries and keys [tokens, width] of a layer, unscaled, and its number of heads."""
        block = self.tower.encoder.layers[layer]
        normed = block.layer_norm1(self.states[layer])
        return block.self_attn.q_proj(normed), block.self_attn.k_proj(normed), block.self_attn.num_heads

    def attention(self, layer: int, query: int, *, joint: bool = False) -> list[list[float]]:
        """By head, the attention of one query on all tokens; with `joint` of one head of the whole width."""
        queries, keys, heads = self.rows(layer)
        found = []
        for own, others in zip(
            queries[query].chunk(1 if joint else heads), keys.chunk(1 if joint else heads, dim=1), strict=True
        ):
            logits = [float(own @ other) / math.sqrt(len(own)) for other in others]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            found.append([weight / sum(weights) for weight in weights])
        return found

    def class_attention(self, layer: int, *, joint: bool = False) -> list[float]:
        """The class token's on each patch, summed over heads."""
        by_head = self.attention(layer, 0, joint=joint)
        return [sum(weights[1 + patch] for weights in by_head) for patch in EVERYONE]

    def received(self, layer: int) -> list[float]:
        """What each patch receives of all queries and heads."""
        rows = [weights for query in range(1 + VISUAL_TOKENS) for weights in self.attention(layer, query)]
        return [sum(weights[1 + patch] for weights in rows) for patch in EVERYONE]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=0))


class ImageRule(AtLayerZero, ABC):
    """Each image of a row by itself: the tokens that stay, as they stand, and what they hold by then."""

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        stock = list(model.model.get_image_features(pixels).pooler_output)
        self.standing: list[int] = []
        for number, image in enumerate(pixels):
            tower = TowerOfImage(model, image)
            for place, state in self.of_image(tower):
                self.standing.append(number * VISUAL_TOKENS + place)
                if state is not None:
                    stock[number][place] = model.model.multi_modal_projector(state)
        self.chosen = sorted(self.standing)
        return torch.cat(stock)

    @abstractmethod
    def of_image(self, tower: TowerOfImage) -> list[tuple[int, Tensor | None]]:
        """Place and new state, None for the one it has, of the tokens that stay."""

    def order(self, layer: int, kept: list[int]) -> list[int]:
        return self.standing


class PruMergeRule(ImageRule):
    def __init__(self, ratio: float | None, neighbours: int, *, plus: bool = False) -> None:
        self.ratio, self.neighbours, self.plus = ratio, neighbours, plus

    def of_image(self, tower: TowerOfImage) -> list[tuple[int, Tensor | None]]:
        attention = tower.class_attention(1, joint=True)
        keys, states = tower.rows(1)[1][1:], tower.states[1][1:]
        ranked = sorted(EVERYONE, key=lambda token: -attention[token])
        share = self.ratio
        if share is None:
            low, high = np.percentile(attention, [25, 75])
            share = sum(mass > high + 1.5 * (high - low) for mass in attention) / VISUAL_TOKENS
        staying = ranked[: int(VISUAL_TOKENS * share)]
        if self.plus:
            staying = staying or ranked[:1]
            step = int(1 / (share or 1 / VISUAL_TOKENS))
            first, distance = (0, max(1, int(step / 3))) if self.ratio is None else (step // 2, step)
            spaced = range(first, VISUAL_TOKENS - 1, distance)
            staying = staying + [token for token in spaced if token not in staying]
        found: list[tuple[int, Tensor | None]] = []
        for token in staying:
            others = [other for other in EVERYONE if other != token]
            others.sort(key=lambda other: -cosine(keys[token], keys[other]))
            state = states[token].clone()
            for other in others[: self.neighbours]:
                state += attention[other] * states[other]
            found.append((token, state))
        leaving = [token for token in ranked if token not in staying]
        if leaving:
            found.append((leaving[0], torch.stack([attention[t] * states[t] for t in leaving]).sum(0)))
        return found


class VisionZipRule(ImageRule):
    def __init__(self, dominant: int, contextual: int) -> None:
        self.dominant, self.contextual = dominant, contextual

    def of_image(self, tower: TowerOfImage) -> list[tuple[int, Tensor | None]]:
        if self.dominant - 1 + self.contextual >= VISUAL_TOKENS:
            return [(token, None) for token in EVERYONE]
        attention, states = tower.class_attention(0), tower.states[1]
        _, keys, heads = tower.rows(0)
        mean_keys = torch.stack(keys[1:].chunk(heads, dim=1)).mean(0)
        dominant = best(attention, EVERYONE, self.dominant - 1)
        rest = [token for token in EVERYONE if token not in dominant]
        targets = rest[:: max(1, len(rest) // self.contextual)][: self.contextual]
        leaving = [token for token in rest if token not in targets]
        came: dict[int, list[Tensor]] = {target: [] for target in targets}
        for token in leaving:
            home = max(targets, key=lambda target: cosine(mean_keys[token], mean_keys[target]))
            came[home].append(states[1 + token])
        seat = max(leaving, key=lambda token: attention[token])
        found: list[tuple[int, Tensor | None]] = [(seat, states[0])]
        found += [(token, None) for token in dominant]
        for target, own in came.items():
            state = states[1 + target]
            found.append((target, state + torch.stack(own).mean(0) if own else state))
        return found


class VisPrunerRule(ImageRule):
    def __init__(self, rate: float, important: float) -> None:
        self.rate, self.important = rate, important

    def of_image(self, tower: TowerOfImage) -> list[tuple[int, Tensor | None]]:
        attention, states = tower.class_attention(0), tower.states[1][1:]
        budget = round((1 - self.rate) * VISUAL_TOKENS)
        ranked = sorted(EVERYONE, key=lambda token: -attention[token])
        count = int(budget * self.important)
        important, diverse = ranked[:count], ranked[count:]
        while len(diverse) > budget - count > 0:
            compared, others = diverse[0::2], diverse[1::2]
            closest = {
                token: max(cosine(states[token], states[other]) for other in others) for token in compared
            }
            compared.sort(key=lambda token: -closest[token])
            diverse = compared[min(8, len(diverse) - (budget - count)) :] + others
        kept = important + (diverse if budget > count else [])
        return [(token, None) for token in sorted(kept)]


class HiPruneRule(ImageRule):
    def __init__(self, rate: float, alpha: float, layer: int, *, wrap: bool) -> None:
        self.rate, self.alpha, self.layer, self.wrap = rate, alpha, layer, wrap

    def of_image(self, tower: TowerOfImage) -> list[tuple[int, Tensor | None]]:
        middle, deep = tower.received(self.layer), tower.received(0)
        budget = round((1 - self.rate) * VISUAL_TOKENS)
        near = set()
        for anchor in best(middle, EVERYONE, round(budget * self.alpha / 5)):
            row, column = divmod(anchor, SIDE)
            for down, right in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)):
                if 0 <= row + down < SIDE and 0 <= column + right < SIDE:
                    near.add(anchor + SIDE * down + right)
                elif self.wrap:
                    near.add(min(max(anchor + SIDE * down + right, 0), VISUAL_TOKENS - 1))
        kept = best(middle, sorted(near), budget)
        kept += best(deep, [token for token in EVERYONE if token not in near], budget - len(kept))
        return [(token, None) for token in sorted(kept)]
