"""The rules of published methods that reduce the prompt, in plain Python: one row, one token at a time."""

import math
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from tests.runtime.example_rules import instruction
from tests.runtime.probes import best
from tests.runtime.reference import Rule, rotate, turned
from tests.tiny import IMAGE


def image_columns(prompt: list[int]) -> list[int]:
    return [column for column, token in enumerate(prompt) if token == IMAGE]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


class ReceivedRule(Rule):
    """FastV as its paper has it: the attention that a token gets from all others."""

    def __init__(self, layer: int, rate: float):
        self.layers, self.rate = (layer,), rate

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        received = []
        for column in image_columns(self.prompt):
            others = [query for query in range(len(self.prompt)) if query != column]
            received.append(
                sum(float(self.attention[:, query, column].mean()) for query in others) / len(others)
            )
        return best(received, held, round(visual * (1 - self.rate)))


class PyramidDropRule(Rule):
    def __init__(self, layers: tuple[int, ...], ratios: tuple[float, ...], contiguous: bool):
        self.layers = layers or (2, 3, 4)  # the quarters of six layers: 1.5, 3 and 4.5, halves to even
        self.ratios, self.contiguous = ratios, contiguous

    def features(self, model: Any, pixels: Tensor) -> None:
        self.blocks = model.model.language_model.layers

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        image = image_columns(self.prompt)
        there = [c for c in range(len(self.prompt)) if c not in image or image.index(c) in held]
        block, positions = self.blocks[layer].self_attn, self.positions[:, there]
        normed = self.blocks[layer].input_layernorm(self.states[there])
        size = block.head_dim
        query = turned(block, "q", normed[-1:], positions[:, -1:])[0]
        key = turned(block, "k", normed, positions)
        total = [0.0] * visual
        for head in range(len(query)):
            shared = head // (len(query) // key.shape[1])
            weights = (key[:, shared] @ query[head] / math.sqrt(size)).softmax(dim=0)
            for token in held:
                total[token] += float(weights[there.index(image[token])]) / len(query)
        return best(total, held, int(visual * self.ratios[self.layers.index(layer)]))


class DivPruneRule(Rule):
    def __init__(self, layer: int, rate: float, contiguous: bool):
        self.layers, self.rate, self.contiguous = (layer,), rate, contiguous

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        states = self.states[image_columns(self.prompt)]
        far = [[1 - cosine(one, other) for other in states] for one in states]
        nearest = [min(far[i][j] for j in held if j != i) for i in held]
        chosen = [nearest.index(max(nearest))]
        while len(chosen) < round(visual * (1 - self.rate)):
            left = [token for token in held if token not in chosen]
            chosen.append(max(left, key=lambda token: (min(far[token][c] for c in chosen), -token)))
        return chosen


class DARTRule(Rule):
    def __init__(self, layer: int, rate: float, visual_pivots: int, instruction_pivots: int):
        self.layers, self.rate = (layer - 1, layer), rate
        self.pivots = visual_pivots, instruction_pivots

    def features(self, model: Any, pixels: Tensor) -> None:
        self.model = model.model.language_model

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        if layer == self.layers[0]:
            block = self.model.layers[layer]
            keys = turned(block.self_attn, "k", block.input_layernorm(self.states), self.positions)
            self.norms = keys.abs().sum(dim=(1, 2)).tolist()
            return held
        image, text = image_columns(self.prompt), instruction(self.prompt)
        states = self.model.norm(self.states)
        pivots = []
        for columns, count in zip((image, text), self.pivots, strict=True):
            pivots += sorted(columns, key=lambda column: -self.norms[column])[:count]
        wanted = round(visual * (1 - self.rate))
        kept = [column for column in pivots if column in image]
        for pivot in pivots:
            left = sorted((c for c in image if c not in kept), key=lambda c: cosine(states[pivot], states[c]))
            kept += left[: wanted // sum(self.pivots)]
        return held if wanted == visual else [image.index(column) for column in kept]


class SparseVLMRule(Rule):
    """Both versions."""

    def __init__(self, method: Any) -> None:
        self.sparse = method.layers or (0, 1, 3)  # 2, 6 and 15 of 32 in six layers: 0.375, 1.125 and 2.8125
        self.layers = (0, *(layer + 1 for layer in self.sparse))
        self.contiguous = method.version == "1.5"
        published = {"1.5": (300, 200, 110), "2.0": (300, 200, 118)}[method.version]
        self.tokens = published if method.tokens == 192 else method.tokens
        self.method = method

    def features(self, model: Any, pixels: Tensor) -> None:
        self.pixels, self.rope = pixels, model.config.text_config.rope_parameters
        self.ones: tuple[Tensor, list[list[float]]] | None = None

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        text, image = instruction(self.prompt), image_columns(self.prompt)
        if layer == 0:
            match = torch.stack([(self.states[text] @ self.states[c]).softmax(0) for c in image]).mean(0)
            self.raters = [c for c, value in zip(text, match, strict=True) if value > match.mean()]
            self.sequence = held
            return held
        count = round(self.tokens[self.sparse.index(layer - 1)] * visual / 576)
        ranks = [self._score(image[token]) for token in range(visual)]
        self.kept = best(ranks, held, count)
        self.clusters: list[list[int]] = []
        gone = sorted((token for token in held if token not in self.kept), key=lambda token: -ranks[token])
        if gone and self.contiguous:
            self._cluster(gone[: int(0.3 * len(gone)) + 1], layer, visual)
        centres = [cluster[0] for cluster in self.clusters]
        self.sequence = [token for token in self.sequence if token in self.kept] + centres
        return sorted(self.sequence)

    def _score(self, column: int) -> float:
        heads = [
            [
                float(self.attention[head, rater, column]) / self._of_ones(rater, column)
                for head in self._heads()
            ]
            for rater in self.raters
        ]
        return sum(map(sum, heads)) / len(heads) / len(heads[0])

    def _heads(self) -> list[int]:
        heads = range(len(self.attention))
        if self.contiguous:
            return list(heads)
        image = image_columns(self.prompt)
        mass = [
            sum(
                float(self.attention[head, rater, column]) / self._of_ones(rater, column)
                for rater in self.raters
                for column in image
            )
            for head in heads
        ]
        return sorted(heads, key=lambda head: -mass[head])[: self.method.heads]

    def _of_ones(self, rater: int, column: int) -> float:
        if self.contiguous or not self.method.divide:
            return 1.0
        if self.ones is None or self.ones[0] is not self.positions:
            ones = torch.ones(self.positions.shape[1], 1, 8)  # of heads of size 8
            turned_ones = rotate(ones, self.positions, self.rope).double()[:, 0]
            self.ones = self.positions, (turned_ones @ turned_ones.T / math.sqrt(8)).tolist()
        return self.ones[1][rater][column]

    def _cluster(self, tokens: list[int], layer: int, visual: int) -> None:
        states = self.states[image_columns(self.prompt)]
        noise = [0.0] * visual
        if self.method.tie_noise:
            text = b"".join(token.to_bytes(8, "little") for token in self.prompt)
            digest = sha256(str(layer).encode() + text + self.pixels.numpy().tobytes()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") // 2)
            noise = [1e-6 * draw for draw in torch.rand(visual, generator=generator).tolist()]
        self.clusters = clusters_of(states, tokens, len(tokens) // 10 + 1, noise)

    def order(self, layer: int, kept: list[int]) -> list[int]:
        image = image_columns(self.prompt)
        text_before = [column - token for token, column in enumerate(image)]
        return sorted(self.sequence, key=lambda token: text_before[token])  # it stands between images

    def merge(self, layer: int, states: Tensor, held: list[int], kept: list[int]) -> Tensor:
        merged = states.clone()
        for cluster in self.clusters if layer else ():
            merged[cluster[0]] = states[cluster].mean(0)
        return merged


def clusters_of(states: Tensor, tokens: list[int], count: int, noise: list[float]) -> list[list[int]]:
    """Clusters of `tokens`, each with its centre in front, the best centre's first."""
    far = {
        i: {j: float((states[i] - states[j]).norm()) / math.sqrt(states.shape[1]) for j in tokens}
        for i in tokens
    }
    density = {}
    for i in tokens:
        near = sum(d * d for d in sorted(far[i].values())[:count]) / count
        # In single precision, which has few numbers between 1 and 1 + 1e-6.
        density[i] = float(torch.tensor(math.exp(-near)) + torch.tensor(noise[i]))
    farthest = max(max(row.values()) for row in far.values())
    lead = {i: min([far[i][j] for j in tokens if density[j] > density[i]], default=farthest) for i in tokens}
    centres = sorted(tokens, key=lambda i: -lead[i] * density[i])[:count]
    found = {centre: [centre] for centre in centres}
    for i in tokens:
        if i not in centres:
            found[min(centres, key=lambda centre: far[i][centre])].append(i)
    return list(found.values())
