"""Rules of the methods that read the vision tower, in plain Python: one image and one token at a time."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.runtime.example_rules import SIDE, AtLayerZero
from tests.runtime.family_towers import FamilyPicture, pictures_of
from tests.runtime.probes import best
from tests.tiny import VISUAL_TOKENS
from tests.tiny_families import encoder_inputs

EVERYONE = list(range(VISUAL_TOKENS))


class TowerOfImage:
    """What layers of LLaVA's tower hold of one image: the class token, then its patches."""

    everyone, columns, merged = EVERYONE, SIDE, False

    def __init__(self, model: Any, pixels: Tensor, number: int) -> None:
        self.tower, self.project = model.model.vision_tower, model.model.multi_modal_projector
        self.places = [number * VISUAL_TOKENS + patch for patch in EVERYONE]
        self.hidden = [
            found[0] for found in self.tower(pixels[None], output_hidden_states=True).hidden_states
        ]
        self.class_state, self.states = self.hidden[1][0], self.hidden[1][1:]
        self.features = self.project(self.states)

    def rows(self, layer: int) -> tuple[Tensor, Tensor, int]:
        """Queries and keys [tokens, width] of a layer, unscaled, and its number of heads."""
        block = self.tower.encoder.layers[layer]
        normed = block.layer_norm1(self.hidden[layer])
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

    def salience(self, *, joint: bool = False) -> list[float]:
        """The class token's attention on each patch, summed over heads; as one head, in the layer behind."""
        by_head = self.attention(int(joint), 0, joint=joint)
        return [sum(weights[1 + patch] for weights in by_head) for patch in EVERYONE]

    def received(self, share: float | None) -> list[float]:
        """What each patch receives of all queries and heads, in the layer at a share of the depth."""
        layer = 0 if share is None else round(share * 2) - 1
        rows = [weights for query in range(1 + VISUAL_TOKENS) for weights in self.attention(layer, query)]
        return [sum(weights[1 + patch] for weights in rows) for patch in EVERYONE]

    def keys(self, *, joint: bool = False) -> Tensor:
        """Those of patches, averaged over heads, or of all heads side by side, in the layer behind."""
        _, keys, heads = self.rows(int(joint))
        return keys[1:] if joint else torch.stack(keys[1:].chunk(heads, dim=1)).mean(0)


Picture = TowerOfImage | FamilyPicture


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=0))


class ImageRule(AtLayerZero, ABC):
    """Each image of a row by itself: the tokens that stay, as they stand, and what they hold by then."""

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        llava = model.config.model_type == "llava"
        pictures: list[Any] = (
            [TowerOfImage(model, image, number) for number, image in enumerate(pixels)]
            if llava
            else pictures_of(model, self.inputs)
        )
        encoded = model.model.get_image_features(**encoder_inputs(model, self.inputs))
        stock = torch.cat(list(encoded.pooler_output)).clone()
        newlines = {*range(len(stock))} - {place for picture in pictures for place in picture.places}
        slots = {place: place for place in newlines}
        for picture in pictures:
            standing = []
            for token, feature in self.of_image(picture):
                standing.append(picture.places[token])
                if feature is not None:
                    stock[picture.places[token]] = feature
            # They change places among themselves.
            slots |= dict(zip(standing, sorted(standing), strict=True))
        self.chosen, self.standing = sorted(slots), sorted(slots, key=lambda place: slots[place])
        return stock

    @abstractmethod
    def of_image(self, image: Picture) -> list[tuple[int, Tensor | None]]:
        """Token and new feature, None for the one it has, of the tokens that stay, as they stand."""

    def order(self, layer: int, kept: list[int]) -> list[int]:
        return self.standing


class FasterVLMRule(ImageRule):
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def of_image(self, image: Picture) -> list[tuple[int, Tensor | None]]:
        count = round((1 - self.rate) * len(image.everyone))
        return [(token, None) for token in sorted(best(image.salience(), image.everyone, count))]


class PruMergeRule(ImageRule):
    def __init__(self, ratio: float | None, neighbours: int, *, plus: bool = False) -> None:
        self.ratio, self.neighbours, self.plus = ratio, neighbours, plus

    def of_image(self, image: Picture) -> list[tuple[int, Tensor | None]]:
        attention, everyone, size = image.salience(joint=True), image.everyone, len(image.everyone)
        keys, states = image.keys(joint=True), image.states
        ranked = sorted(everyone, key=lambda token: -attention[token])
        share = self.ratio
        if share is None:
            low, high = np.percentile(attention, [25, 75])
            share = sum(mass > high + 1.5 * (high - low) for mass in attention) / size
        staying = ranked[: int(size * share)]
        if self.plus:
            staying = staying or ranked[:1]
            step = int(1 / (share or 1 / size))
            first, distance = (0, max(1, int(step / 3))) if self.ratio is None else (step // 2, step)
            spaced = range(first, size - 1, distance)
            staying = staying + [token for token in spaced if token not in staying]
        found: list[tuple[int, Tensor | None]] = []
        for token in staying:
            others = [other for other in everyone if other != token]
            others.sort(key=lambda other: -cosine(keys[token], keys[other]))
            state = states[token].clone()
            for other in others[: self.neighbours]:
                state += attention[other] * states[other]
            found.append((token, image.project(state)))
        leaving = [token for token in ranked if token not in staying]
        if leaving:
            rest = torch.stack([attention[t] * states[t] for t in leaving]).sum(0)
            found.append((leaving[0], image.project(rest)))
        return found


class VisionZipRule(ImageRule):
    def __init__(self, dominant: int, contextual: int) -> None:
        self.dominant, self.contextual = dominant, contextual

    def of_image(self, image: Picture) -> list[tuple[int, Tensor | None]]:
        everyone, patches = image.everyone, self.dominant - (image.class_state is not None)
        if patches + self.contextual >= len(everyone):
            return [(token, None) for token in everyone]
        attention, mean_keys = image.salience(), image.keys()
        # Of several patches that are one token it merges what the projector made.
        states = image.features if image.merged else image.states
        project = (lambda state: state) if image.merged else image.project
        dominant = sorted(best(attention, everyone, patches))
        rest = [token for token in everyone if token not in dominant]
        targets = rest[:: max(1, len(rest) // self.contextual)][: self.contextual]
        leaving = [token for token in rest if token not in targets]
        came: dict[int, list[Tensor]] = {target: [] for target in targets}
        for token in leaving:
            home = max(targets, key=lambda target: cosine(mean_keys[token], mean_keys[target]))
            came[home].append(states[token])
        found: list[tuple[int, Tensor | None]] = []
        if image.class_state is not None:
            seat = max(leaving, key=lambda token: attention[token])
            found.append((seat, image.project(image.class_state)))
        found += [(token, None) for token in dominant]
        for target, own in came.items():
            state = states[target]
            found.append((target, project(state + torch.stack(own).mean(0) if own else state)))
        return found


class VisPrunerRule(ImageRule):
    def __init__(self, rate: float, important: float) -> None:
        self.rate, self.important = rate, important

    def of_image(self, image: Picture) -> list[tuple[int, Tensor | None]]:
        attention, states = image.salience(), image.states
        budget = round((1 - self.rate) * len(image.everyone))
        ranked = sorted(image.everyone, key=lambda token: -attention[token])
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
    def __init__(self, rate: float, alpha: float, object_layer: float, *, wrap: bool) -> None:
        self.rate, self.alpha, self.object_layer, self.wrap = rate, alpha, object_layer, wrap

    def of_image(self, image: Picture) -> list[tuple[int, Tensor | None]]:
        middle, deep = image.received(self.object_layer), image.received(None)
        everyone, columns = image.everyone, image.columns
        budget = round((1 - self.rate) * len(everyone))
        near = set()
        for anchor in best(middle, everyone, round(budget * self.alpha / 5)):
            row, column = divmod(anchor, columns)
            for down, right in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)):
                if 0 <= row + down < len(everyone) // columns and 0 <= column + right < columns:
                    near.add(anchor + columns * down + right)
                elif self.wrap:
                    near.add(min(max(anchor + columns * down + right, 0), len(everyone) - 1))
        kept = best(middle, sorted(near), budget)
        kept += best(deep, [token for token in everyone if token not in near], budget - len(kept))
        return [(token, None) for token in sorted(kept)]
