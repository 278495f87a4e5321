"""What has to be done for any model that lmms-eval asks here: batches, the response log, progress.

A subclass says what a question is, what finds its answer in a log, and how a batch is answered. Whatever ends
a process, what was answered before is found in the log when it starts again.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms
from PIL import ImageFile
from tqdm import tqdm

from dyrate.errors import DyrateError
from dyrate.evaluation.ahead import made_ahead
from dyrate.evaluation.log import ResponseLog
from dyrate.evaluation.requests import Question, Request, batches, new_tokens
from dyrate.evaluation.setting import Setting, TaskRecord
from dyrate.evaluation.turn import Turn
from dyrate.evaluation.visual_tokens import TokenSums

if TYPE_CHECKING:
    import torch

    from dyrate.evaluation import results


class Answering(lmms):  # type: ignore[misc]
    """A loaded model that answers with a setting, batch by batch."""

    is_simple = True
    setting: Setting
    companions: Sequence[Setting] = ()  # whose turn comes later, but which answer the same batches now
    batch_size: int
    dtype: str
    """Of its weights."""
    weights_hash: str
    """sha256 of the checkpoint; empty where that is not known."""
    revision: str | None = None
    """Commit of the checkpoint, where it comes from the hub."""
    template_hash: str | None = None
    """sha256 of the chat template; None where another's code makes the prompts."""
    model: Any = None
    readers: int = 0
    """Threads that make batches ready while others are answered."""
    _device: "torch.device"

    @property
    def device(self) -> "torch.device":
        """Where the model stands."""
        return self._device

    @property
    def engine(self) -> str | None:
        """What generates, where it is this package that chooses."""
        return None

    @property
    def method(self) -> Any:
        """The reduction method in use."""
        return self.setting.method

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoding strategy in use."""
        return self.setting.decoding

    @property
    def records(self) -> Mapping[str, TaskRecord]:
        """By task, what happened while it was answered."""
        return self.setting.records

    @property
    def label(self) -> str | None:
        """What its rows are called, unless it is the model's name: the method with its hyperparameters."""
        return str(self.method.label)

    @property
    def shape(self) -> "results.Shape | None":
        """The sizes of the model, where FLOPs can be counted from them."""
        return None

    @property
    def provenance(self) -> "results.Adapter | None":
        """By which of lmms-eval's adapters it is asked, if by one of them."""
        return None

    @property
    def repetition_penalty(self) -> float:
        """What the score of a token is divided by that was there already."""
        return 1.0

    @property
    def connector(self) -> "results.Connector | None":
        """What was trained into the place of its own connector, if anything."""
        return None

    def use(self, setting: Setting, companions: Sequence[Setting] = ()) -> None:
        """Choose what the next evaluation runs with, and what else answers its batches while they are there.

        What is done with companions is found in their logs when their turn comes; one that fails is left to
        its own turn.
        """
        self.check(setting)
        self.setting, self.companions = setting, companions

    def check(self, setting: Setting) -> None:
        """Refuse a setting that it cannot answer with."""
        raise NotImplementedError

    def release(self) -> None:
        """Give back the memory that is kept for the next batch."""

    def clean(self) -> None:
        """Keep the model: lmms-eval would delete it after each evaluation."""

    @property
    def watched(self) -> bool:
        """Whether an observer sees each generation."""
        return False

    @property
    def doing(self) -> str:
        """What progress bars call the work."""
        others = f" and {len(self.companions)} more" if self.companions else ""
        return f"{self.label}{others}"

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer the requests, in their order; those that the setting leaves to others with nothing.

        The batches are laid out from all requests before the log is looked at, so that a resumed run computes
        the same batches as an undisturbed one.
        """
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval has Pillow fill up broken images with grey
        asked = [Request.of(instance.args) for instance in requests]
        layout = batches(asked, self.lengths(asked), self.batch_size)
        limits = [new_tokens(asked[places[0]], self.decoding) for places in layout]  # before anything slow
        answers: dict[int, str] = {}
        mine = [*zip(layout, limits, strict=True)][self.setting.batches]
        if len(mine) < len(layout):
            answers = dict.fromkeys(range(len(asked)), "")  # others give those; nothing of this is scored
        total = sum(len(places) for places, _ in mine)
        bar = tqdm(total=total, desc=self.doing, unit="sample", mininterval=1, disable=self.rank != 0)
        ready = made_ahead(self.prepare, [[asked[i] for i in places] for places, _ in mine], self.readers)
        with bar, closing(ready), Turn(self, self.setting, self.companions) as turn:
            for (places, limit), questions in zip(mine, ready, strict=True):
                found = self._accepted(questions, turn.answers(asked[places[0]], questions, limit))
                answers.update(zip(places, found, strict=True))
                self._finish(questions)
                bar.update(len(places))
        return [answers[index] for index in range(len(asked))]

    def _finish(self, questions: Sequence[Question]) -> None:
        """Let go of a batch; of a task's first row the prompt is kept, which the result shows."""
        for question in questions:
            if question.doc_id == 0:
                self.setting.records[question.task].prompt = question.prompt

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: reduction methods are defined on generation."""
        raise DyrateError("the dyrate model generates; tasks of output_type loglikelihood are not supported")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: a second generation on a pruned cache would not see the first one's tokens."""
        raise DyrateError("the dyrate model answers single-turn tasks; multi-round tasks are not supported")

    def open_log(self, setting: Setting) -> ResponseLog:
        """Open a setting's log, or this process's part of it."""
        path = setting.log
        if path is not None and self.world_size > 1:
            path = path.with_name(f"{path.name}.{self.rank}")
        log = ResponseLog(path)
        for other in setting.others:
            log.take_in(other)
        return log

    def key(self, setting: Setting, question: Question, new_tokens: int) -> str:
        """Return what finds an answer in a log."""
        raise NotImplementedError

    def answer(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int
    ) -> tuple[list[str], TokenSums | None]:
        """Answer one batch."""
        raise NotImplementedError

    def lengths(self, asked: Sequence[Request]) -> list[int]:
        """How long each prompt is: the longest are answered first."""
        raise NotImplementedError

    def prepare(self, batch: Sequence[Request]) -> Sequence[Question]:
        """Make a batch ready, in one of `readers` threads."""
        return [self._question(one) for one in batch]

    def _question(self, one: Request) -> Question:
        raise NotImplementedError

    def _accepted(self, questions: Sequence[Question], answers: Sequence[str]) -> Sequence[str]:
        """What is scored of a batch's answers, whether new or from the log."""
        return answers
