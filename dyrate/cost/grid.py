"""Percentages of FLOPs over many prompt and answer lengths at once, where tokens are dropped at layer K."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dyrate.cost.flops import CONVENTIONS, SCOPES, count
from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import Work

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Drop:
    """From layer K on, a share R of the visual tokens is gone, at prefill and for the whole answer."""

    layer: int
    rate: float


@dataclass(frozen=True)
class CountingSetting:
    """What a percentage of FLOPs must name to mean anything."""

    convention: str
    scope: str
    text_tokens: int
    """t: tokens of the prompt that are not visual."""
    new_tokens: int | None
    """N; None where only the prompt counts."""

    def __str__(self) -> str:
        new = "" if self.new_tokens is None else f", N = {self.new_tokens}"
        return f"{self.convention}, {SCOPES[self.scope]}, t = {self.text_tokens}{new}"


def percentages(shape: ModelShape, drop: Drop, convention: str, scope: str, text: Array, new: Array) -> Array:
    """Return 100 x FLOPs / FLOPs without reduction, [len(text), len(new)], of one image's visual tokens.

    `text` are values of t, `new` of N. `new` has no effect on `prefill`.
    """
    visual, layers = shape.vision.patches, shape.text.layers
    reduced = _layers(shape, convention, scope, text, new, visual - np.rint(drop.rate * visual))
    whole = _layers(shape, convention, scope, text, new, visual)
    rest = _rest(shape, convention, scope, new)
    kept = (drop.layer * whole + (layers - drop.layer) * reduced + rest) / (layers * whole + rest)
    return np.asarray(100 * kept)


def _layers(shape: ModelShape, convention: str, scope: str, text: Array, new: Array, visual: float) -> Array:
    """Return the FLOPs of one decoder layer that holds so many visual tokens, [len(text), len(new)]."""
    n, steps = (text + visual)[:, None], (new - 1)[None]
    tokens, pairs = n + 0 * steps, n**2 + 0 * steps
    if scope == "cached":
        tokens, pairs = tokens + steps, pairs + steps * n + steps * (steps + 1) / 2
    elif scope == "no_cache":
        squares = steps * (steps + 1) * (2 * steps + 1) / 6
        pairs = pairs + steps * n**2 + n * steps * (steps + 1) + squares
        tokens = tokens + steps * n + steps * (steps + 1) / 2
    named = CONVENTIONS[convention]
    per_token, per_pair = (count(work, shape, named).total for work in (Work((1,), (0,)), Work((0,), (1,))))
    return np.asarray(per_token * tokens + per_pair * pairs)


def _rest(shape: ModelShape, convention: str, scope: str, new: Array) -> Array:
    """Return what counts beside the decoder's layers, [1, len(new)]."""
    named = CONVENTIONS[convention]
    image = count(Work.encoder(1, 1, shape.vision.patches), shape, named).total
    logits = count(Work((0,), (0,), logits=1), shape, named).total
    return np.asarray(image + logits * (new if scope != "prefill" else np.ones_like(new))[None])
