"""Merging inside the vision tower, in plain Python: one image, one layer and one token at a time."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.runtime.example_rules import AtLayerZero


class ToMeRule(AtLayerZero):
    def __init__(self, merged: int, proportional: bool) -> None:
        self.merged, self.proportional = merged, proportional

    def features(self, model: Any, pixels: Tensor) -> Tensor:
        tower, layer = model.model.vision_tower, model.config.vision_feature_layer
        classes = int(tower.config.model_type == "clip_vision_model")
        used = tower.encoder.layers[: layer + 1] if layer < -1 else tower.encoder.layers
        self.chosen, patches = [], tower.embeddings.num_patches
        features = torch.zeros(len(pixels) * patches, model.config.text_config.hidden_size)
        for number, image in enumerate(pixels):
            states = tower.embeddings(image[None])[0]
            states = list(tower.pre_layrnorm(states) if classes else states)
            tokens = [(state, 1.0, origin) for origin, state in enumerate(states)]
            for block in used:
                tokens = self.layer(block, tokens, classes)
            for state, _, origin in tokens[classes:]:
                self.chosen.append(number * patches + origin - classes)
                features[self.chosen[-1]] = model.model.multi_modal_projector(state[None, None])[0, 0]
        return features

    def layer(self, block: Any, tokens: list[Any], classes: int) -> list[Any]:
        attention, heads = block.self_attn, block.self_attn.num_heads
        normed = block.layer_norm1(torch.stack([state for state, _, _ in tokens]))
        query, key, value = (
            part(normed).view(len(tokens), heads, -1)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        sizes = torch.tensor([size for _, size, _ in tokens])
        attended = []
        for place, (state, size, origin) in enumerate(tokens):
            outputs = []
            for head in range(heads):
                logits = key[:, head] @ query[place, head] / math.sqrt(key.shape[2])
                weights = logits.exp() * (sizes if self.proportional else 1)
                outputs.append(weights / weights.sum() @ value[:, head])
            attended.append((state + attention.out_proj(torch.cat(outputs)), size, origin))
        merged = self.joined(attended, key.mean(1), classes)
        return [(state + block.mlp(block.layer_norm2(state)), size, origin) for state, size, origin in merged]

    def joined(self, tokens: list[Any], keys: Tensor, classes: int) -> list[Any]:
        first, second = list(range(0, len(tokens), 2)), list(range(1, len(tokens), 2))
        pairs = []
        for one in first[classes:]:
            cosines = [float(cosine_similarity(keys[one], keys[other], dim=0)) for other in second]
            pairs.append((max(cosines), one, second[cosines.index(max(cosines))]))
        pairs.sort(reverse=True)
        count = min(self.merged, (len(tokens) - classes) // 2)
        pairs, rest = pairs[:count], pairs[count:]
        stay = [one for _, one, _ in rest]
        merged = [tokens[one] for one in ([0, *sorted(stay)] if classes else stay)]
        for other in second:
            group = [tokens[other], *(tokens[one] for _, one, into in pairs if into == other)]
            total = sum(size for _, size, _ in group)
            mean = sum(state * size for state, size, _ in group) / total
            merged.append((mean, total, tokens[other][2]))
        return merged
