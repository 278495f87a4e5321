"""The rules of the example methods in plain Python, one row and one token at a time."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.runtime.probes import best
from tests.runtime.reference import Rule
from tests.tiny import IMAGE, VISUAL_TOKENS

SIDE = 4


class Reader:
    """Text of ids, and features that a text alone decides."""

    def text(self, ids: Any) -> str:
        return " ".join(map(str, ids)) + " ASSISTANT:"

    def features(self, questions: Any) -> Tensor:
        return torch.stack([question_features(question) for question in questions])

    def beside_features(self, states: Tensor) -> Tensor:
        return states @ visual_projection().to(states.device)


def visual_projection() -> Tensor:
    """A tower's states to where questions are."""
    return torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) / 4


def question_features(question: str) -> Tensor:
    assert "ASSISTANT" not in question
    generator = torch.Generator().manual_seed(sum(map(int, question.split())))
    return torch.randn(16, generator=generator)


def instruction(prompt: list[int]) -> list[int]:
    """Columns of text from the first image on."""
    first = prompt.index(IMAGE) if IMAGE in prompt else 0
    return [column for column in range(first, len(prompt)) if prompt[column] != IMAGE]


def tower_layer(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of all images' patches in a row: the class token's attention [V, heads], keys [V, heads, D] and outputs
    [V, width] of the second-last layer.
    """
    tower = model.model.vision_tower
    attention, keys, states = [], [], []
    for image in pixels:
        found = tower(image[None], output_hidden_states=True)
        block = tower.encoder.layers[-2]
        entering, leaving = found.hidden_states[-3][0], found.hidden_states[-2][0]
        normed = block.layer_norm1(entering)
        key = block.self_attn.k_proj(normed).view(len(normed), 2, 8)
        query = block.self_attn.q_proj(normed[0]).view(2, 8)
        weights = torch.stack([(key[:, h] @ query[h] / math.sqrt(8)).softmax(0) for h in range(2)], dim=1)
        attention.append(weights[1:])
        keys.append(key[1:])
        states.append(leaving[1:])
    return torch.cat(attention), torch.cat(keys), torch.cat(states)


class AtLayerZero(Rule):
    """Tokens chosen, and features made, of the vision tower."""

    layers, contiguous = (0,), True
    chosen: list[int]

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return self.chosen


class DownsampleRule(AtLayerZero):
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        budget = round((1 - self.rate) * VISUAL_TOKENS)
        height, width = max(
            ((h, w) for h in range(1, 5) for w in (h, h + 1) if h * w <= budget and w <= SIDE),
            key=lambda size: size[0] * size[1],
        )
        self.chosen, features = [], torch.zeros(len(pixels) * VISUAL_TOKENS, 32)
        for number, image in enumerate(pixels):
            small = torch.stack([_resized(channel, height * 4, width * 4) for channel in image])
            tower = model.model.vision_tower
            found = tower(small[None], interpolate_pos_encoding=True, output_hidden_states=True)
            projected = model.model.multi_modal_projector(found.hidden_states[-2][:, 1:])[0]
            for index, feature in enumerate(projected):
                row = math.floor((index // width + 0.5) * SIDE / height)
                column = math.floor((index % width + 0.5) * SIDE / width)
                place = number * VISUAL_TOKENS + row * SIDE + column
                self.chosen.append(place)
                features[place] = feature
        return features


def _resized(channel: Tensor, height: int, width: int) -> Tensor:
    """Another library's antialiased bilinear interpolation."""
    if channel.shape == (height, width):
        return channel
    image = Image.fromarray(channel.numpy(), mode="F").resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


class MergedTokensRule(AtLayerZero):
    def __init__(self, dominant: int, contextual: int) -> None:
        self.dominant, self.contextual = dominant, contextual

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        attention, keys, states = tower_layer(model, pixels)
        everyone = list(range(len(states)))
        dominant = best(attention.sum(1).tolist(), everyone, self.dominant)
        rest = [token for token in everyone if token not in dominant]
        targets = rest[:: max(1, len(rest) // self.contextual)][: self.contextual]
        mean_keys = keys.mean(1)
        followers: dict[int, list[int]] = {target: [] for target in targets}
        for token in rest:
            if token not in targets:
                cosines = [
                    float(torch.cosine_similarity(mean_keys[token], mean_keys[t], dim=0)) for t in targets
                ]
                followers[targets[cosines.index(max(cosines))]].append(token)
        merged = states.clone()
        for target, own in followers.items():
            if own:
                merged[target] += states[own].mean(0)
        self.chosen = dominant + targets
        return model.model.multi_modal_projector(merged)


class AdaptiveCountRule(AtLayerZero):
    def __init__(self, spread: float) -> None:
        self.spread = spread

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        attention, keys, states = tower_layer(model, pixels)
        mass, merged, self.chosen = attention.mean(1), states.clone(), []
        for start in range(0, len(states), VISUAL_TOKENS):
            own = list(range(start, start + VISUAL_TOKENS))
            low, high = np.percentile(mass[own].numpy(), [25, 75])
            kept = [t for t in own if float(mass[t]) > high + self.spread * (high - low)]
            kept = kept or [max(own, key=lambda t: float(mass[t]))]
            for token in set(own) - set(kept):
                cosines = [
                    float(torch.cosine_similarity(keys[token].flatten(), keys[k].flatten(), dim=0))
                    for k in kept
                ]
                merged[kept[cosines.index(max(cosines))]] += mass[token] * states[token]
            self.chosen += kept
        return model.model.multi_modal_projector(merged)


class PooledRule(Rule):
    """Squares of each picture become the token behind their middle; of a square's newlines the last stays."""

    layers = (0,)

    def __init__(self, size: int, contiguous: bool) -> None:
        self.size, self.contiguous = size, contiguous

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        self.squares, start = dict[int, list[int]](), 0
        for rows, columns, newlines in self.pictures:
            places = {}
            for row in range(rows):
                for column in range(columns):
                    places[row, column] = start
                    start += 1
                if row >= rows - newlines:
                    if row % self.size == self.size - 1:
                        self.squares[start] = [start]
                    start += 1
            for top in range(0, rows, self.size):
                for left in range(0, columns, self.size):
                    square = [
                        places[row, column]
                        for row in range(top, top + self.size)
                        for column in range(left, left + self.size)
                    ]
                    self.squares[places[top + self.size // 2, left + self.size // 2]] = square
        assert start == visual
        return list(self.squares)

    def merge(self, layer: int, states: Tensor, held: list[int], kept: list[int]) -> Tensor:
        merged = states.clone()
        for token, square in self.squares.items():
            merged[token] = states[square].mean(0)
        return merged


class PooledConnectorRule(AtLayerZero):
    def __init__(self, size: int) -> None:
        self.size = size

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        projected = torch.cat(list(model.model.get_image_features(pixels).pooler_output))
        features, self.chosen = torch.zeros_like(projected), []
        for image in range(len(pixels)):
            for top in range(0, SIDE, self.size):
                for left in range(0, SIDE, self.size):
                    square = [
                        image * VISUAL_TOKENS + row * SIDE + column
                        for row in range(top, top + self.size)
                        for column in range(left, left + self.size)
                    ]
                    middle = self.size // 2
                    place = image * VISUAL_TOKENS + (top + middle) * SIDE + left + middle
                    features[place] = projected[square].mean(0)
                    self.chosen.append(place)
        return features


class QuestionMatchRule(Rule):
    def __init__(self, layer: int, rate: float) -> None:
        self.layers, self.rate = (layer,), rate

    def features(self, model: Any, pixels: Tensor) -> None:
        self.tower = tower_layer(model, pixels)[2]

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        question = question_features(
            " ".join(str(self.prompt[column]) for column in instruction(self.prompt))
        )
        cosines = [float(torch.cosine_similarity(state, question, dim=0)) for state in self.tower]
        return best(cosines, held, round(visual * (1 - self.rate)))


class RecycledTokensRule(Rule):
    contiguous = True

    def __init__(self, layers: tuple[int, ...], rate: float) -> None:
        self.layers, self.rate = (0, *layers), rate

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        text = instruction(self.prompt)
        image = [column for column, token in enumerate(self.prompt) if token == IMAGE]
        if layer == 0:
            match = torch.stack(
                [(self.states[text] @ self.states[column]).softmax(0) for column in image]
            ).mean(0)
            self.raters = [column for column, value in zip(text, match, strict=True) if value >= match.mean()]
            return held
        means = self.attention[:, self.raters][:, :, image].mean(dim=(0, 1)).tolist()
        kept = best(means, held, round(len(held) * (1 - self.rate)))
        gone = [token for token in held if token not in kept]
        self.home, self.gone = max(gone, key=lambda token: means[token]), gone
        return [*kept, self.home]

    def merge(self, layer: int, states: Tensor, held: list[int], kept: list[int]) -> Tensor:
        if layer == 0:
            return states
        merged = states.clone()
        merged[self.home] = states[self.gone].mean(0)
        return merged


class CompressionTokensRule(Rule):
    blocked = (("ins", "img"), ("res", "img"))

    def __init__(self, tokens: tuple[int, ...], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embeddings = {token: torch.randn(32, generator=generator) for token in tokens}


class VoCoRule(Rule):
    blocked = (("ins", "img"), ("res", "img"), ("ins", "sys"), ("res", "sys"))

    def __init__(self, token: int) -> None:
        self.compression = (token,)


class MassShareRule(Rule):
    def __init__(self, layer: int, least: float, most: float) -> None:
        self.layers, self.least, self.most = (layer,), least, most

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        heads = self.seen.head_scores[layer - 1][step]
        mass = max(self.seen.class_mass[layer - 1][step][:, 1].tolist())
        share = min(max(mass, self.least), self.most)
        logarithms = [float((heads[:, token] + 1e-30).log().mean()) for token in range(visual)]
        return best(logarithms, held, max(1, math.floor(share * visual)))
