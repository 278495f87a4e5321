"""Accuracy on held-out questions, by the exact match that greedy decoding would reach.

Greedy decoding writes the reference exactly if, and only if, at each of its positions the reference's next
token is the most probable one given the reference so far. So one teacher-forced forward tells it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dyrate.testbed.models.packing import NO_TARGET, PackedBatch, Packer
from dyrate.testbed.world.examples import Example

CAPTION_KIND = "caption"


@dataclass(frozen=True)
class Accuracy:
    """Exact matches by question kind: {kind: (right, asked)}, and token accuracy by kind likewise."""

    exact: dict[str, tuple[int, int]]
    tokens: dict[str, tuple[int, int]]

    @property
    def questions(self) -> float:
        """Share of right answers over every question that is no caption."""
        counts = [count for kind, count in self.exact.items() if kind != CAPTION_KIND]
        return sum(right for right, _ in counts) / max(sum(asked for _, asked in counts), 1)

    def shares(self) -> dict[str, float]:
        """Return {kind: share of exact matches}, in alphabetic order."""
        return {kind: round(right / asked, 4) for kind, (right, asked) in sorted(self.exact.items())}


class HeldOut:
    """A fixed set of packed held-out examples."""

    def __init__(self, packer: Packer, examples: Sequence[Example], batch_size: int) -> None:
        self.examples = len(examples)
        self.batches = [
            packer.batch(examples[first : first + batch_size])
            for first in range(0, len(examples), batch_size)
        ]

    def score(self, logits_of: Callable[[PackedBatch], Tensor]) -> Accuracy:
        """Score a model given as a function from a batch to logits, [B, S, vocabulary]."""
        exact_right, exact_asked = Counter[str](), Counter[str]()
        token_right, token_asked = Counter[str](), Counter[str]()
        for batch, placed in self.batches:
            with torch.inference_mode():
                predicted = logits_of(batch).argmax(-1).cpu()
            target = batch.targets != NO_TARGET
            right = (predicted == batch.targets) & target
            for row, turns in enumerate(placed):
                for number, turn in enumerate(turns, start=1):
                    here = batch.segments[row] == number
                    asked, got = int((target[row] & here).sum()), int((right[row] & here).sum())
                    exact_right[turn.kind] += asked == got
                    exact_asked[turn.kind] += 1
                    token_right[turn.kind] += got
                    token_asked[turn.kind] += asked
        return Accuracy(
            {kind: (exact_right[kind], asked) for kind, asked in sorted(exact_asked.items())},
            {kind: (token_right[kind], asked) for kind, asked in sorted(token_asked.items())},
        )
