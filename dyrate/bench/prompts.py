"""A benchmark's own prompts, as the evaluation asks them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dyrate.bench.models import prepared
from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness import ask
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.requests import Question
from dyrate.evaluation.setting import Setting
from dyrate.evaluation.visual_tokens import TokenSums


class Reader(DyrateModel):
    """Reads a benchmark's questions and answers none."""

    def __init__(
        self,
        path: str,
        device: torch.device,
        dtype: str,
        revision: str | None = None,
        chat_template: str | None = None,
        pixels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(
            path,
            device=str(device),
            dtype=dtype,
            engine="transformers",
            revision=revision,
            chat_template=chat_template,
            pixels=pixels,
        )
        prepared(self.model)
        self._seen: list[Mapping[str, Tensor]] = []

    @property
    def doing(self) -> str:
        """What progress bars call the work."""
        return "reading prompts"

    def prompts(
        self, benchmark: str, tasks: str, data: Path | None, *, batch: int, count: int
    ) -> list[dict[str, Tensor]]:
        """Return up to `count` batches of prompts, all as long as the first one's.

        Raises `DyrateError` for an unknown benchmark, and for data without a whole batch.
        """
        self.batch_size, self._seen = batch, []
        (task,) = load_tasks(select((benchmark,)), tasks, data, batch * count, primary_only=True)
        ask(self, task)
        whole = [dict(prompts) for prompts in self._seen if len(prompts["input_ids"]) == batch]
        if not whole:
            raise DyrateError(f"--benchmark {benchmark}: has no {batch} samples for a batch")
        shape = whole[0]["input_ids"].shape
        return [prompts for prompts in whole if prompts["input_ids"].shape == shape][:count]

    def answer(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int
    ) -> tuple[list[str], TokenSums | None]:
        """Keep the prompts instead."""
        self._seen.append(self.read(questions))
        return [""] * len(questions), None
