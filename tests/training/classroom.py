"""Batches, predictors and a stream of examples for the tiny model; no processor, no images but noise."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dyrate.predictor_config import PredictorConfig
from dyrate.predictor_training.batch import Batch
from dyrate.predictors import Predictor
from tests.tiny import IMAGE, tiny_inputs

HEADS = 4


def answers_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, IMAGE, (length,), generator=generator).tolist() for length in lengths]


def tiny_batch(rows: list[int], lengths: list[int], seed: int = 0) -> Batch:
    """Prompts of different lengths, padded on the left, with answers of different lengths."""
    return Batch.of(tiny_inputs(rows, seed=seed), answers_of(lengths, seed), IMAGE)


def wild_predictor(seed: int = 0, **config: Any) -> Predictor:
    """Random weights, so large that rates and rankings jump from row to row and from step to step."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        predictor = Predictor(PredictorConfig(heads=HEADS, **{"layer": 2, "rates": 8, **config}))
        with torch.no_grad():
            for parameter in predictor.parameters():
                parameter.copy_(torch.randn_like(parameter) * 2)
            predictor.rate.standardise.mean.fill_(0.25)
            predictor.rate.standardise.std.fill_(0.05)
    return predictor.eval()


class Stream:
    """Example i is (prompt length, answer): a function of i."""

    @property
    def description(self) -> dict[str, Any]:
        return {"source": "tiny"}

    def training(self, index: int) -> Any:
        return index

    def validation(self, count: int) -> list[Any]:
        return [10_000 + index for index in range(count)]


def encode(indices: Sequence[int]) -> Batch:
    """Batches of the stream."""
    lengths = [2 + index * 7 % 5 for index in indices]
    answers = [answers_of([length], seed=index)[0] for index, length in zip(indices, lengths, strict=True)]
    return Batch.of(tiny_inputs([3 + index % 3 for index in indices], seed=indices[0]), answers, IMAGE)


def forced(answers: Sequence[Sequence[int]]) -> Any:
    """A logits processor that makes `generate()` write these answers."""
    from transformers import LogitsProcessor, LogitsProcessorList

    longest = max(map(len, answers))
    wanted = torch.tensor([[*answer, *[5] * (longest - len(answer))] for answer in answers])

    class Forced(LogitsProcessor):
        step = 0

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            only = torch.full_like(scores, -1e9).scatter(1, wanted[:, self.step, None], 0.0)
            self.step += 1
            return only

    return LogitsProcessorList([Forced()])
