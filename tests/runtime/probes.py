"""Methods that exist to test the runtime: decode-time eviction and selection, several layers, merging.

Rates differ per row and per step. Each has its rule in plain Python beside it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.ranking import kept_counts, top
from dyrate.reduction import DecodeMode, DecodeView, Kept, Needs, PrefillView, ReductionMethod
from tests.runtime.reference import Rule


def rate_at(length: int, step: int) -> float:
    """A rate from 0 to 0.9 that jumps with the step and differs between prompts."""
    return (length + 3 * step) % 7 * 0.15


def best(scores: list[float], held: list[int], count: int) -> list[int]:
    """The `count` best of those held that have a score; the lower index wins a tie."""
    scored = [i for i in held if scores[i] > -math.inf]
    return sorted(sorted(scored, key=lambda i: (-scores[i], i))[:count])


@dataclass(frozen=True)
class EvictSome(ReductionMethod):
    name: ClassVar[str] = "evict-some"
    decode_mode: ClassVar[DecodeMode] = "evict"
    layers: tuple[int, ...] = (2,)
    positions: str = "original"

    def needs(self, depth: int) -> Needs:
        return Needs(
            prefill=self.layers,
            decode=self.layers,
            decode_mode=self.decode_mode,
            attention=tuple(layer - 1 for layer in self.layers),
            positions="contiguous" if self.positions == "contiguous" else "original",
        )

    def prefill(self, view: PrefillView) -> Tensor:
        # Remembered, so that the rate of a row is its own also after beams have moved.
        view.state["length"] = view.visual_tokens + view.instruction.sum(1)
        return top(view.attention[view.layer - 1].scores, kept_counts(view.present.sum(1), 0.2), view.present)

    def decode(self, view: DecodeView) -> Tensor | None:
        rates = [rate_at(length, view.step) for length in view.state["length"].tolist()]
        counts = kept_counts(
            view.present.sum(1), torch.tensor(rates, dtype=torch.float64, device=view.present.device)
        )
        return top(view.attention[view.layer - 1].scores, counts, view.present)


@dataclass(frozen=True)
class SelectSome(EvictSome):
    name: ClassVar[str] = "select-some"
    decode_mode: ClassVar[DecodeMode] = "select"


class DecodeRule(Rule):
    def __init__(self, method: EvictSome, length: int):
        self.layers, self.length = method.layers, length
        self.evicts = method.decode_mode == "evict"
        self.contiguous = method.positions == "contiguous"

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return best(scores, held, round(len(held) * (1 - 0.2)))

    def decode(self, layer: int, step: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return best(scores, held, round(len(held) * (1 - rate_at(self.length, step))))


@dataclass(frozen=True)
class Pyramid(ReductionMethod):
    """Halves at layers 1, 2 and 4, numbered anew each time, as PyramidDrop does."""

    name: ClassVar[str] = "pyramid"

    def needs(self, depth: int) -> Needs:
        return Needs(prefill=(1, 2, 4), attention=(0, 1, 3), positions="contiguous")

    def prefill(self, view: PrefillView) -> Tensor:
        return top(view.attention[view.layer - 1].scores, view.present.sum(1) // 2, view.present)


class PyramidRule(Rule):
    layers, contiguous = (1, 2, 4), True

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return best(scores, held, len(held) // 2)


@dataclass(frozen=True)
class MergeIntoFirst(ReductionMethod):
    """Every fourth token stays; the mean of the others is added to the first that stays."""

    name: ClassVar[str] = "merge"

    def needs(self, depth: int) -> Needs:
        return Needs(prefill=(3,))

    def prefill(self, view: PrefillView) -> Kept:
        keep = view.valid & (torch.arange(view.valid.shape[1]) % 4 == 0)
        gone = (view.present & ~keep)[:, :, None]
        states = view.states
        states[:, 0] += (states * gone).sum(1) / gone.sum(1).clamp_min(1)
        into = torch.zeros_like(keep).long().masked_fill(keep, -1).masked_fill(~view.valid, -1)
        return Kept(keep, states, into)


class MergeRule(Rule):
    layers = (3,)

    def prefill(self, layer: int, scores: list[float], held: list[int], visual: int) -> list[int]:
        return held[::4]

    def merge(self, layer: int, states: Tensor, held: list[int], kept: list[int]) -> Tensor:
        merged = states.clone()
        merged[0] += states[[i for i in held if i not in kept]].mean(0)
        return merged


@dataclass(frozen=True)
class Lagging(ReductionMethod):
    """Selects at layer 1 by what layer 4 looked at one step before."""

    name: ClassVar[str] = "lagging"

    def needs(self, depth: int) -> Needs:
        return Needs(decode=(1,), attention=(4,))

    def decode(self, view: DecodeView) -> Tensor:
        return top(view.previous[4].scores, view.visual_tokens // 2, view.present)
