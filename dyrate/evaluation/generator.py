"""What generates: transformers under a method's hooks, or this package's own engine."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from dyrate.engine.engine import Engine
from dyrate.errors import DyrateError
from dyrate.evaluation.decoding import ENGINES, generation_arguments, seeded_sampling
from dyrate.evaluation.generation_config import penalizer, take
from dyrate.question_reader import QuestionReader
from dyrate.reduction import ReductionMethod

if TYPE_CHECKING:
    from dyrate.run import Run

_KNOWN = 100
"""Methods, at most, whose refusals by the engine are remembered: a sweep's."""


class Generator:
    """Generates with one model under any method and decoding strategy, by the engine that was asked for.

    `auto` is `graph` on a GPU, where it can run model, method and search, else `transformers`. Either
    generates as the decoding strategy says; of the checkpoint's generation config see `generation_config`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, engine: str, questions: QuestionReader | None = None
    ) -> None:
        if engine not in ENGINES:
            raise DyrateError(f"engine is {engine!r}; known: {', '.join(ENGINES)}")
        self.model, self._asked, self._questions = model, engine, questions
        self._taken = take(model, tokenizer)
        self.ends, self.repetition_penalty = self._taken.ends, self._taken.repetition_penalty
        wanted = engine == "graph" or (engine == "auto" and model.device.type == "cuda")
        self._graph = self._own_engine() if wanted else None
        self._refusals: list[tuple[ReductionMethod, DyrateError | None]] = []  # of the engine, by method

    def engine(self, decoding: Mapping[str, Any], method: ReductionMethod) -> str:
        """Return what generates with a method and a decoding strategy: `graph` or `transformers`.

        Raises `DyrateError` where `graph` was asked for and cannot.
        """
        beams = decoding["num_beams"] > 1
        if beams and self._asked == "graph":
            raise DyrateError(
                f"engine graph has no beams, and decoding {decoding['name']} is a beam search: use engine "
                "transformers, or auto"
            )
        if self._graph is None or beams:
            return "transformers"
        refusal = self._refusal(self._graph, method)
        if refusal is not None and self._asked == "graph":
            raise refusal
        return "graph" if refusal is None else "transformers"

    def _refusal(self, engine: Engine, method: ReductionMethod) -> DyrateError | None:
        """What the engine says against a method; it is asked for each question, and the answer takes long."""
        for known, refusal in self._refusals:
            if known is method:
                return refusal
        try:
            engine.attach(method)
            found = None
        except DyrateError as error:
            found = error
        self._refusals = [*self._refusals[-_KNOWN:], (method, found)]
        return found

    def generate(
        self,
        method: ReductionMethod,
        decoding: Mapping[str, Any],
        inputs: Mapping[str, Tensor],
        streams: Sequence[str],
        new_tokens: int,
        record: Sequence[int] = (),
        streamer: Any = None,
    ) -> tuple[Tensor, "Run"]:
        """Return the new tokens [rows, columns] and the run; `streams` seed sampling, one for each row.

        `streamer`, one of transformers', is told each token as it is made, by transformers alone.
        """
        penalty = penalizer(self.repetition_penalty, inputs.get("attention_mask"))
        sampling = [*([penalty] if penalty else []), *(seeded_sampling(decoding, streams) or [])]
        sampler = LogitsProcessorList(sampling) if sampling else None
        options: dict[str, Any] = {
            "max_new_tokens": new_tokens,
            "pad_token_id": self._taken.padding,
            "eos_token_id": self.ends,
        }
        if self._graph is not None and self.engine(decoding, method) == "graph":
            ids, run = self._graph.generate(
                method, dict(inputs), sampler=sampler, record=record, questions=self._questions, **options
            )
        else:
            with method(self.model, record, self._questions) as run:
                config = GenerationConfig(**generation_arguments(decoding), **options)
                ids = self.model.generate(
                    **inputs, generation_config=config, logits_processor=sampler, streamer=streamer
                )
        return ids[:, inputs["input_ids"].shape[1] :], run

    def release(self) -> None:
        """Give back memory that is kept for the next batch."""
        if self._graph is not None:
            self._graph.release()
        torch.cuda.empty_cache()

    def _own_engine(self) -> Engine | None:
        try:
            return Engine(self.model)
        except DyrateError as error:
            if self._asked == "graph":
                raise
            logger.warning("transformers generates: {}", error)
            return None
