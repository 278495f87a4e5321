"""One setting's turn at its questions, in which settings whose turn comes later answer the same ones."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, Self

from dyrate.evaluation.log import ResponseLog
from dyrate.evaluation.prefix import Prefix
from dyrate.evaluation.requests import Question, Request, new_tokens
from dyrate.evaluation.setting import Setting, TaskRecord
from dyrate.evaluation.visual_tokens import TokenSums


class Answerer(Protocol):
    """A loaded model that answers questions with a setting."""

    model: Any

    @property
    def watched(self) -> bool:
        """Whether somebody looks on, so that nothing may come from a log."""

    def check(self, setting: Setting) -> None:
        """Refuse a setting that the model cannot answer with."""

    def open_log(self, setting: Setting) -> ResponseLog:
        """Open a setting's log."""

    def key(self, setting: Setting, question: Question, new_tokens: int) -> str:
        """Return what finds an answer in a log."""

    def answer(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int
    ) -> tuple[list[str], TokenSums | None]:
        """Answer one batch."""


class Turn:
    """Answers batches with one setting, and with its companions what they are asked as well.

    Whatever companions do is found in their logs when their turn comes; so is the error that ended one.
    """

    def __init__(self, model: Answerer, own: Setting, companions: Sequence[Setting]) -> None:
        if own.error is not None:
            raise own.error
        self._model, self._own, self._companions = model, own, companions
        self._prefix = Prefix(model.model) if companions else None
        self._logs: dict[Setting, ResponseLog] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Open all logs; from now on work that the settings have in common is done once for each batch."""
        with ExitStack() as opened:
            settings = [self._own, *self._companions]
            if self._prefix is not None:
                alike = {setting: setting.enters(self._prefix.depth) for setting in settings}
                settings.sort(key=lambda one: -alike[one])  # the work of the first one is kept
                opened.enter_context(self._prefix.shared(sorted(alike.values())[-2]))
            for setting in settings:
                with self._noting(setting):
                    self._model.check(setting)
                    self._logs[setting] = opened.enter_context(self._model.open_log(setting))
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @contextmanager
    def _noting(self, setting: Setting, task: str = "") -> Iterator[None]:
        """Keep a companion's error for its own turn: that of a task, or one that is in the way of all."""
        try:
            yield
        except Exception as error:
            if setting is self._own:
                raise
            if task:
                setting.errors[task] = error
            else:
                setting.error = error

    def answers(self, first: Request, questions: Sequence[Question], limit: int) -> list[str]:
        """Answer a batch, of whose requests the first is `first`, with at most `limit` new tokens."""
        if self._prefix is not None:
            self._prefix.forget()
        answers: list[str] = []
        if first.task in self._own.errors:
            raise self._own.errors[first.task]
        for setting, log in self._logs.items():
            with self._noting(setting, first.task):
                if setting is self._own:
                    answers = self._answer(setting, log, questions, limit)
                elif first.task in setting.tasks and first.task not in setting.errors:
                    self._answer(setting, log, questions, new_tokens(first, setting.decoding))
        return answers

    def _answer(
        self, setting: Setting, log: ResponseLog, questions: Sequence[Question], limit: int
    ) -> list[str]:
        own = setting is self._own
        record = setting.records.setdefault(questions[0].task, TaskRecord())
        keys = [self._model.key(setting, question, limit) for question in questions]
        batch = None if self._model.watched else log.get(keys)  # nothing is to be seen of logged answers
        if batch is None:
            started = perf_counter()
            answers, tokens = self._model.answer(setting, questions, limit)
            seconds = perf_counter() - started
            record.seconds += seconds
            record.generated += len(questions)
            batch = log.append(keys, answers, tokens)
            if not own:
                setting.early.add(batch["batch"])
                setting.borrowed += seconds
                self._own.borrowed -= seconds
        elif own and batch["batch"] not in setting.early:
            record.reused += len(questions)
        if own and "tokens" in batch:
            record.tokens.append(batch["tokens"])
        return batch["answers"]
