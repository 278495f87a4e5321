"""Accuracy on held-out questions, by the exact match that greedy decoding would reach.

Greedy decoding writes the reference exactly if, and only if, at each of its positions the reference's next
token is the most probable one given the reference so far. So one teacher-forced forward tells it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dyrate.testbed.models.packing import NO_TARGET, PackedBatch, Packer
from dyrate.testbed.world.examples import CAPTION_KIND, Example


@dataclass(frozen=True)
class Accuracy:
    """Exact matches by question kind, (right, asked), and tokens of captions likewise."""

    exact: dict[str, tuple[int, int]]
    caption_tokens: tuple[int, int]

    @property
    def questions(self) -> float:
        """Share of right answers over every question that is no caption."""
        counts = [count for kind, count in self.exact.items() if kind != CAPTION_KIND]
        return sum(right for right, _ in counts) / max(sum(asked for _, asked in counts), 1)

    def summary(self) -> dict[str, Any]:
        """Return what the learning curve shows: the share of right answers, in all and by kind."""
        shares = {kind: round(right / asked, 4) for kind, (right, asked) in self.exact.items()}
        return {"questions": round(self.questions, 4), "accuracy": shares}

    def __str__(self) -> str:
        shares = " ".join(f"{kind}={right / asked:.2f}" for kind, (right, asked) in self.exact.items())
        return f"questions {self.questions:.3f} | {shares}"


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
        exact: dict[str, list[bool]] = defaultdict(list)
        caption_right = caption_asked = 0
        for batch, placed in self.batches:
            with torch.inference_mode():
                predicted = logits_of(batch).argmax(-1).cpu()
            for row, turns in enumerate(placed):
                for number, turn in enumerate(turns, start=1):
                    answer = (batch.segments[row] == number) & (batch.targets[row] != NO_TARGET)
                    right = (predicted[row] == batch.targets[row])[answer]
                    exact[turn.kind].append(bool(right.all()))
                    if turn.kind == CAPTION_KIND:
                        caption_right += int(right.sum())
                        caption_asked += len(right)
        counts = {kind: (sum(answers), len(answers)) for kind, answers in sorted(exact.items())}
        return Accuracy(counts, (caption_right, caption_asked))
