"""Connectors small enough for a test, and what they are given."""

from typing import Any

import torch
from torch import Tensor

from dyrate.connectors.connector import Connector, Question, Sizes
from dyrate.connectors.registry import build

SIZES = Sizes(width=16, hidden=32, side=4)
_BERT = {"queries": 6, "width": 8, "depth": 3, "heads": 2, "feed_forward": 16}
FIELDS: dict[str, dict[str, Any]] = {
    "projector": {},
    "nested_pool": {"kernel": 2, "kernels": (4, 2, 1)},
    "ldp": {"stride": 2},
    "compression_tokens": {"token": 40},
    "token_packer": {"scale": 2, "layers": (0, 1, -2), "heads": 2},
    "resampler": {"edge": 3, "heads": 4},
    "qformer": _BERT,
    "instruct_qformer": {**_BERT, "vocabulary": 50, "words": 9},
    "context": {**_BERT, "vocabulary": 50, "words": 9, "edge": 2},
}
TOKENS = {
    "projector": 16,
    "nested_pool": 4,
    "ldp": 4,
    "compression_tokens": 16,
    "token_packer": 4,
    "resampler": 9,
    "qformer": 6,
    "instruct_qformer": 6,
    "context": 5,
}


def connector(name: str, seed: int = 0, **fields: Any) -> Connector:
    """One with weights far from zero, biases too, in evaluation mode."""
    torch.manual_seed(seed)
    made = build(name, SIZES, {**FIELDS[name], **fields})
    with torch.no_grad():
        for part in made.parameters():
            part.copy_(torch.randn_like(part) * (0.3 if part.dim() > 1 else 0.5) + (part.dim() == 1))
    return made.eval()


def states(made: Connector, images: int = 3, seed: int = 1) -> Tensor:
    """States of a tower for it."""
    tokens = made.sizes.side**2 + made.class_token
    width = made.sizes.width * len(made.layers)
    return torch.randn(images, tokens, width, generator=torch.Generator().manual_seed(seed))


def question(images: int = 3, words: int = 5, seed: int = 2) -> Question:
    """Questions, of which the last is two words shorter."""
    ids = torch.randint(1, 50, (images, words), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(images, words, dtype=torch.bool)
    mask[-1, -2:] = False
    return Question(ids, mask)
