"""A masked reference: the whole sequence of one row in every layer, and -inf where a token was dropped.

Nothing is shared with the package: attention, RoPE, class mass and ranking are written out, one layer and
one query after the other. Every step of a generation comes from one forward over prompt and generated
tokens.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tests.tiny import IMAGE
from tests.tiny_families import Pictures, encoder_inputs


class Rule:
    """What a method does to one row, in plain Python: sets of visual indices in, sets out. V is the row's."""

    layers: tuple[int, ...] = ()
    contiguous = False
    blocked: Collection[tuple[str, str]] = ()
    """(query class, key class) that do not see each other."""
    embeddings: Mapping[int, Tensor] = MappingProxyType({})
    """Of token ids that the model does not have, which are compression tokens."""
    compression: Collection[int] = ()
    """Ids of others, that it has."""
    inputs: dict[str, Tensor]
    """The row's. Set before the rule is asked for features."""
    prompt: list[int]
    attention: Tensor
    """[heads, tokens, tokens] of the layer before; states [tokens, hidden] on entering the layer. Set before
    the rule is asked at prefill.
    """
    states: Tensor
    positions: Tensor
    """[axes, tokens]."""
    pictures: Pictures
    """Those of the row's images."""
    lags = False
    """Whether a choice depends on what deeper layers saw one step before."""
    seen: "Outcome"
    """Class mass and head scores of the layers that have run, for all steps; set before the rule is asked."""
    before: "Outcome | None"
    """With `lags`: those of all layers, right up to the step before; None where they are not known yet."""

    def features(self, model: Any, pixels: Tensor) -> Tensor | None:
        """Other visual features [V, hidden] than the stock ones."""
        return None

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        """`scores`: attention of the last prompt token at layer - 1 on each visual token, averaged over
        heads; -inf on those that it did not see.
        """
        return held

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        """The tokens that step's query sees, out of `held`."""
        return held

    evicts = False

    def order(self, layer: int, kept: list[int]) -> list[int]:
        """The tokens kept, as they stand from here on; with contiguous positions."""
        return kept

    def merge(self, layer: int, states: Tensor, held: list[int], kept: list[int]) -> Tensor:
        """New hidden states [V, hidden] of the visual tokens."""
        return states


@dataclass
class Outcome:
    logits: Tensor  # [steps, vocabulary]
    kept: dict[int, list[int]]
    attended: dict[int, list[list[int]]]  # layer -> step -> visual indices
    held: dict[int, list[int]]  # layer -> visual indices in the cache after the last step
    class_mass: dict[int, Tensor]  # layer -> [steps, heads, 4]
    head_scores: dict[int, Tensor]  # layer -> [steps, heads, V]


def masked_forward(
    model: Any, inputs: dict[str, Tensor], generated: list[int], rule: Rule, pictures: Pictures | None = None
) -> Outcome:
    """Run one row (no padding) with all of `generated` appended.

    Step t is the query that makes generated token t. `pictures` are the row's: by default squares of 4 x 4.
    """
    visual = int((inputs["input_ids"] == IMAGE).sum())
    rule.pictures = [(4, 4, 0)] * (visual // 16) if pictures is None else pictures
    outcome = _forward(model, inputs, generated, rule, None)
    for _ in generated[1:] if rule.lags else ():
        # All steps run at once, so each pass makes one more step see the right step before it.
        outcome = _forward(model, inputs, generated, rule, outcome)
    return outcome


@torch.no_grad()
def _forward(
    model: Any,
    inputs: dict[str, Tensor],
    generated: list[int],
    rule: Rule,
    before: Outcome | None,
) -> Outcome:
    text = model.model.language_model
    prompt = inputs["input_ids"][0].tolist()
    tokens = prompt + generated[:-1]
    states = text.embed_tokens(torch.tensor([0 if token in rule.embeddings else token for token in tokens]))
    for column, token in enumerate(tokens):
        states[column] = rule.embeddings.get(token, states[column])
    columns = [column for column, token in enumerate(prompt) if token == IMAGE]
    if columns:
        encoded = model.model.get_image_features(**encoder_inputs(model, inputs))
        rule.inputs = inputs
        features = rule.features(model, pixels_of(inputs))
        states[columns] = torch.cat(list(encoded.pooler_output)) if features is None else features
    # What Qwen3-VL adds to visual tokens after its first layers.
    taps = [torch.cat(list(tap)) for tap in getattr(encoded, "deepstack_features", ())] if columns else []

    length, last, visual = len(tokens), len(prompt) - 1, len(columns)
    steps, own = range(len(generated)), classes(prompt, length)
    kept = held = list(range(visual))  # at prefill; in the cache after the last step
    seen = [kept for _ in steps]  # what each step's query sees
    order, positions = torch.arange(length), positions_of(prompt, inputs, length)
    outcome = Outcome(torch.empty(0), {}, {}, {}, {}, {})
    rule.seen, rule.before = outcome, before
    attention = torch.empty(0)
    for index, layer in enumerate(text.layers):
        if index in rule.layers and visual:
            # The last prompt token is the query of step 0, generated token t - 1 that of step t.
            rows = (
                attention[:, last:, columns].mean(dim=0).tolist()
                if index
                else [[0.0] * visual for _ in steps]
            )
            rows = [
                [s if i in seen[t] else -math.inf for i, s in enumerate(row)] for t, row in enumerate(rows)
            ]
            rule.prompt, rule.attention, rule.states, rule.positions = prompt, attention, states, positions
            before, kept = kept, sorted(rule.prefill(index, rows[0], kept, visual))
            states[columns] = rule.merge(index, states[columns], before, kept)
            above, held, seen = seen, kept, [kept]
            for step in steps[1:]:
                if rule.evicts:
                    held = [i for i in held if i in above[step] or index == rule.layers[0]]
                chosen = sorted(rule.decode(index, step, rows[step], held, visual))
                seen.append(chosen)
                held = chosen if rule.evicts else held
            if rule.contiguous:
                gone = set(range(visual)) - set(kept)
                present = torch.tensor([column not in {columns[i] for i in gone} for column in range(length)])
                order = (present.cumsum(0) - 1).clamp_min(0)
                places = [columns[i] for i in kept]
                order[[columns[i] for i in rule.order(index, kept)]] = order[places].clone()
                positions = order[None]
        if ("res", "img") in rule.blocked:  # nobody will look at the image again
            held, seen = [], [kept, *[[] for _ in steps[1:]]]
        outcome.kept[index], outcome.attended[index], outcome.held[index] = seen[0], list(seen), held

        dropped = torch.zeros(len(seen), length, dtype=torch.bool)
        for step, visible in enumerate(seen):
            dropped[step, [columns[i] for i in {*range(visual)}.difference(visible)]] = True
        dropped = dropped[(torch.arange(length) - last).clamp_min(0)]  # of each query
        # Nobody looks at a dropped token; what it sees does not matter.
        allowed = (order[None, :] <= order[:, None]) & (~dropped | dropped.diagonal()[:, None])
        members = dict(zip(("sys", "img", "ins", "res"), own, strict=True))
        compression = {*rule.embeddings, *rule.compression}
        members["cmp"] = [column for column, token in enumerate(prompt) if token in compression]
        for queries, keys in rule.blocked:
            for query in set(members[queries]) - set(members["cmp"]):
                allowed[query, [key for key in members[keys] if key != query]] = False
        states, attention = run_layer(layer, states, allowed, positions)
        if index < len(taps):
            states[columns] += taps[index]
        mass = attention[:, last:].transpose(0, 1)
        outcome.class_mass[index] = torch.stack([mass[..., these].sum(dim=-1) for these in own], dim=-1)
        outcome.head_scores[index] = mass[..., columns]
    outcome.logits = model.lm_head(text.norm(states))[last:]
    return outcome


def pixels_of(inputs: dict[str, Tensor]) -> Tensor:
    """A row's pixels, without what only fills up a batch of tiles."""
    pixels = inputs["pixel_values"]
    if pixels.dim() < 5:
        return pixels
    tiles = pixels.flatten(0, 1)
    return tiles[tiles.flatten(1).any(dim=1)]


def positions_of(prompt: list[int], inputs: dict[str, Tensor], length: int) -> Tensor:
    """LongTensor [axes, length]: one axis, or Qwen's three: time, row and column of merged patches."""
    if "image_grid_thw" not in inputs:
        return torch.arange(length)[None]
    found: list[list[int]] = []
    grids = iter(inputs["image_grid_thw"].tolist())
    while len(found) < length:
        start = max(map(max, found[-64:]), default=-1) + 1
        if len(found) >= len(prompt) or prompt[len(found)] != IMAGE:
            found.append([start] * 3)
            continue
        _, rows, columns = next(grids)
        found += [
            [start, start + row, start + column] for row in range(rows // 2) for column in range(columns // 2)
        ]
    return torch.tensor(found).T


def classes(prompt: list[int], length: int) -> list[list[int]]:
    """Columns of sys, img, ins, res."""
    first = prompt.index(IMAGE) if IMAGE in prompt else 0
    image = [column for column, token in enumerate(prompt) if token == IMAGE]
    rest = [column for column in range(first, len(prompt)) if column not in image]
    return [list(range(first)), image, rest, list(range(len(prompt), length))]


def run_layer(layer: Any, states: Tensor, allowed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """One decoder layer on [tokens, hidden]; also returns its attention [heads, tokens, tokens]."""
    block, length = layer.self_attn, len(states)
    normed = layer.input_layernorm(states)
    query, key = (turned(block, part, normed, positions) for part in "qk")
    value = block.v_proj(normed).view(length, -1, block.head_dim)
    weights, outputs = [], []
    for head in range(query.shape[1]):
        shared = head // (query.shape[1] // key.shape[1])
        scores = query[:, head] @ key[:, shared].T / math.sqrt(block.head_dim)
        weights.append(scores.masked_fill(~allowed, -math.inf).softmax(dim=-1))
        outputs.append(weights[-1] @ value[:, shared])
    states = states + block.o_proj(torch.cat(outputs, dim=-1))
    return states + layer.mlp(layer.post_attention_layernorm(states)), torch.stack(weights)


def turned(block: Any, part: str, normed: Tensor, positions: Tensor) -> Tensor:
    """Queries (`part` "q") or keys ("k") of an attention block, [tokens, heads, head_dim]."""
    states = getattr(block, f"{part}_proj")(normed).view(len(normed), -1, block.head_dim)
    if hasattr(block, f"{part}_norm"):
        states = getattr(block, f"{part}_norm")(states)
    return rotate(states, positions, block.config.rope_parameters)


def rotate(states: Tensor, positions: Tensor, rope: Mapping[str, Any], theta: float = 10_000.0) -> Tensor:
    """RoPE in the half-split layout on [tokens, heads, head_dim], for positions [axes, tokens]."""
    half = states.shape[-1] // 2
    axes = [axis % len(positions) for axis in axes_of(half, rope)]
    angles = positions[axes].T.float() / theta ** (torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    left, right = states[..., :half], states[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def axes_of(half: int, rope: Mapping[str, Any]) -> list[int]:
    """The axis by which each pair of numbers of a head is turned."""
    sections = rope.get("mrope_section", [half])
    if rope.get("mrope_interleaved"):
        return [pair % 3 if pair < 3 * sections[pair % 3] else 0 for pair in range(half)]
    return [axis for axis, pairs in enumerate(sections) for _ in range(pairs)]
