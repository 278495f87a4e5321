"""What the official connectors compute, from tensors under their original names: in fp32, masks in place of
squares, one loop per head.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tests.convert.originals import PATCH, Tensors


def linear(tensors: Tensors, name: str, given: Tensor) -> Tensor:
    return functional.linear(given, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def norm(tensors: Tensors, name: str, given: Tensor, eps: float) -> Tensor:
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return functional.layer_norm(given, given.shape[-1:], weight, bias, eps)


def two_layers(tensors: Tensors, name: str, given: Tensor) -> Tensor:
    return linear(tensors, f"{name}.2", functional.gelu(linear(tensors, f"{name}.0", given)))


def attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Of rows [n, width] at rows [m, width], where `seen` [n, m] or [m] is true."""
    found = []
    for q, k, v in zip(*(part.chunk(heads, -1) for part in (query, key, value)), strict=True):
        logits = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf)
        found.append(logits.softmax(-1) @ v)
    return torch.cat(found, -1)


def m3(tensors: Tensors, patches: Tensor, scale: int) -> Tensor:
    """Of patches [n, width], `scale` tokens."""
    tokens = two_layers(tensors, "model.mm_projector", patches)
    return _own(len(patches), scale).float() @ tokens * scale / len(patches)


def _own(patches: int, tokens: int) -> Tensor:
    """BoolTensor [tokens, patches]: which patches lie in a token's square, both in raster order."""
    side, edge = math.isqrt(patches), math.isqrt(tokens)
    place = torch.arange(patches)
    row, column = place // side * edge // side, place % side * edge // side
    return row * edge + column == torch.arange(tokens)[:, None]


def token_packer(tensors: Tensors, states: list[Tensor]) -> Tensor:
    """Of an image's hidden states [1 + n, width], all of them: n / 4 tokens."""
    own = {name.removeprefix("model.mm_projector."): tensor for name, tensor in tensors.items()}
    fine = torch.cat([states[layer][1:] for layer in (12, 16, 22, 23)], -1)
    square = _own(len(fine), len(fine) // 4)
    # Half as many, corners not aligned: the point between four patches.
    query = linear(own, "q_proj_1", square.float() @ states[-2][1:] / 4)
    rows = query, two_layers(own, "k_proj_1", fine), two_layers(own, "v_proj_1", fine)
    rows = [norm(own, f"ln_{name}_1", row, 1e-6) for name, row in zip("qkv", rows, strict=True)]
    weights, biases = own["clip_attn.in_proj_weight"].chunk(3), own["clip_attn.in_proj_bias"].chunk(3)
    rows = [functional.linear(*one) for one in zip(rows, weights, biases, strict=True)]
    width = len(weights[0])
    return two_layers(own, "mlp", linear(own, "clip_attn.out_proj", attention(*rows, square, width // 128)))


def eva(tensors: Tensors, pixels: Tensor) -> Tensor:
    """EVA's last states [1 + n, width] of an image [3, size, size]."""
    grid = functional.conv2d(
        pixels, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=PATCH
    )
    states = torch.cat([tensors["cls_token"][0], grid.flatten(1).T]) + tensors["pos_embed"][0]
    block = 0
    while (place := f"blocks.{block}") + ".norm1.weight" in tensors:
        bias = tensors[f"{place}.attn.q_bias"], tensors[f"{place}.attn.v_bias"]
        normed = norm(tensors, f"{place}.norm1", states, 1e-6)
        qkv = functional.linear(
            normed,
            tensors[f"{place}.attn.qkv.weight"],
            torch.cat([bias[0], torch.zeros_like(bias[0]), bias[1]]),
        )
        everything = torch.ones(len(states), dtype=torch.bool)
        mixed = attention(*qkv.chunk(3, -1), everything, states.shape[-1] // 88)
        states = states + linear(tensors, f"{place}.attn.proj", mixed)
        inner = linear(tensors, f"{place}.mlp.fc1", norm(tensors, f"{place}.norm2", states, 1e-6))
        states = states + linear(tensors, f"{place}.mlp.fc2", functional.gelu(inner))
        block += 1
    return states


def llama_vid(tensors: Tensors, states: Tensor, words: list[int], padding: int, edge: int) -> Tensor:
    """Of an image's states [1 + n, width] and a question's word pieces: a context token, and the content.

    `padding` more words are read, and hidden. Content: edge x edge means of patches.
    """
    own = {name.removeprefix("model.vlm_att_"): tensor for name, tensor in tensors.items()}
    read = q_former(own, norm(own, "ln", states, 1e-5), words, padding)
    patches = states[1:]
    query, key = linear(own, "projector", read), linear(own, "key_projector", patches)
    everything = torch.ones(len(patches), dtype=torch.bool)
    found = attention(query, key, patches, everything, 1).mean(0, keepdim=True)
    content = _own(len(patches), edge**2).float() @ patches * edge**2 / len(patches)
    return torch.cat(
        [linear(own, "val_projector", found), two_layers(tensors, "model.mm_projector", content)]
    )


def q_former(own: Tensors, image: Tensor, words: list[int], padding: int) -> Tensor:
    """InstructBLIP's: queries [n, width] after all layers, of normed states [m, width]."""
    bert = {name.removeprefix("encoder.bert."): tensor for name, tensor in own.items()}
    queries = own["query"][0]
    ids = torch.tensor(words + [1] * padding)
    text = (
        bert["embeddings.word_embeddings.weight"][ids]
        + bert["embeddings.position_embeddings.weight"][: len(ids)]
    )
    states = norm(bert, "embeddings.LayerNorm", torch.cat([queries, text]), 1e-12)
    seen = torch.arange(len(states)) < len(queries) + len(words)

    def attend(place: str, rows: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        parts = zip(("query", "key", "value"), (rows, keys, keys), strict=True)
        q, k, v = (linear(bert, f"{place}.self.{name}", part) for name, part in parts)
        mixed = linear(bert, f"{place}.output.dense", attention(q, k, v, seen, rows.shape[-1] // 64))
        return norm(bert, f"{place}.output.LayerNorm", mixed + rows, 1e-12)

    def feed(place: str, half: str, rows: Tensor) -> Tensor:
        inner = functional.gelu(linear(bert, f"{place}.intermediate{half}.dense", rows))
        return norm(
            bert,
            f"{place}.output{half}.LayerNorm",
            linear(bert, f"{place}.output{half}.dense", inner) + rows,
            1e-12,
        )

    layer = 0
    while (place := f"encoder.layer.{layer}") + ".attention.self.query.weight" in bert:
        states = attend(f"{place}.attention", states, states, seen)
        asking, text = states[: len(queries)], states[len(queries) :]
        if layer % 2 == 0:
            everything = torch.ones(len(image), dtype=torch.bool)
            asking = attend(f"{place}.crossattention", asking, image, everything)
        states = torch.cat([feed(place, "_query", asking), feed(place, "", text)])
        layer += 1
    return states[: len(queries)]
