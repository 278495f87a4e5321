"""A system that lmms-eval has an adapter of, asked as this package's own models are.

What holds, though the adapter's code is not ours:

- It gets lmms-eval's requests of the same tasks, rows and images, and is told to be greedy and how many
  tokens are wanted. A call of `generate()` that samples or searches all the same is an error.
- It gets them batch by batch (of one request, unless its arguments have a `batch_size`), and each batch is in
  the response log before the next one is asked. So a killed or failed run goes on where it stopped, with the
  same batches. That it answers a batch alike whatever came before is assumed.
- An error is an error. Many adapters catch theirs, write a line and answer "", which would be a low score: a
  line of level ERROR, or an exception that leaves `generate()` of one of the adapter's modules, ends the
  batch. What an adapter swallows elsewhere and in silence is not seen; so empty answers are counted in a
  warning, and a task with nothing else is refused.
- Weights that the checkpoint lacks, which transformers draws at random with a warning, are an error; so is a
  second tokenizer, for which it would take the first.
- Answers are as many as the questions, and texts. Where all begin with their prompt, they are refused, unless
  `cut_prompt` says to cut it off; then one that does not is refused.

Its weights are known by the checkpoint's files, where `pretrained` names a checkpoint; what an adapter takes
from elsewhere (a service, a second checkpoint) is known by its arguments alone.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
import transformers
from loguru import logger

from dyrate.errors import DyrateError
from dyrate.evaluation.answering import Answering
from dyrate.evaluation.checkpoint import choose_device, commit_of, content_hash, file_hash
from dyrate.evaluation.checkpoint_files import complaints
from dyrate.evaluation.guards import (
    modules_of,
    own_tokenizers,
    trusted_code,
    unswallowed,
    whole_weights,
)
from dyrate.evaluation.harness_adapters import Adapter, AdapterSpec
from dyrate.evaluation.log import content_key
from dyrate.evaluation.requests import Question, Request, colors, images_of
from dyrate.evaluation.setting import Setting
from dyrate.evaluation.visual_tokens import TokenSums
from dyrate.fingerprint import fingerprint

if TYPE_CHECKING:
    from dyrate.evaluation import results

_GREEDY: Mapping[str, Any] = {"do_sample": False, "temperature": 0, "num_beams": 1}
_ENOUGH = 8  # answers that all begin with their prompts are no accident


class System(Answering):
    """What one of lmms-eval's adapters makes, as a model of this package's; greedy and unpruned."""

    def __init__(self, spec: AdapterSpec, device: str = "auto", dtype: str = "float32") -> None:
        super().__init__()
        self._device = choose_device(device)
        self._adapter = adapter = Adapter.of(spec)
        self._trusted = adapter.pinned()
        keywords = adapter.keywords(str(self._device), dtype, self._trusted)
        with (
            complaints(f"{spec.where}: could not be made"),
            trusted_code(adapter, self._trusted),
            whole_weights(spec.where),
            own_tokenizers(spec.where),
        ):
            self._inner = adapter.kind(**keywords)
        self._inner.task_dict = self.task_dict
        self.batch_size = int(keywords.get("batch_size", 1))
        self.dtype = _dtype(modules_of(self._inner)) or dtype
        if self.dtype != dtype:
            logger.warning("{}: its weights are {}, not {}", spec.where, self.dtype, dtype)
        folder = self._trusted or adapter.folder()
        self.weights_hash = "" if folder is None else content_hash(folder)
        self.revision = spec.revision or (commit_of(folder) if folder else None)
        code = fingerprint(["dyrate.evaluation.system"])
        self._code = f"{code} {file_hash(adapter.source)} lmms-eval {version('lmms-eval')}"
        self._requests: dict[tuple[str, int], Any] = {}
        self._empty: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._echoes = 0

    @property
    def label(self) -> None:
        """Its rows go by the model's name."""

    @property
    def doing(self) -> str:
        """What progress bars call the work."""
        return self._adapter.spec.name

    @property
    def provenance(self) -> "results.Adapter":
        """By which of lmms-eval's adapters it is asked, and what that was given."""
        spec = self._adapter.spec
        return {
            "name": spec.name,
            "class_path": self._adapter.path,
            "arguments": spec.arguments,
            "revision": self.revision,
            "trust_remote_code": spec.trust_remote_code,
            "cut_prompt": spec.cut_prompt,
        }

    def check(self, setting: Setting) -> None:
        """Refuse all but the system as it is."""
        if (setting.method.name, setting.decoding["name"]) != ("none", "greedy"):
            raise DyrateError(
                f"{self._adapter.spec.where}: is asked greedily, and no method reduces its tokens"
            )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer the requests, in their order; a `DyrateError` for what the module's docstring refuses."""
        self._requests = {(instance.args[4], instance.args[3]): instance for instance in requests}
        self._empty, self._asked, self._echoes = Counter(), Counter(), 0
        answers = super().generate_until(requests)
        self._check_echoes(1)
        for task, count in self._empty.items():
            where = (
                f"{self._adapter.spec.where}: task {task}: {count} of {self._asked[task]} answers are empty"
            )
            if count == self._asked[task]:
                raise DyrateError(
                    f"{where}: it fails without a word, or ends each answer at once{self._again()}"
                )
            logger.warning(where)
        return answers

    def key(self, setting: Setting, question: Question, new_tokens: int) -> str:
        """Return what finds an answer in a log."""
        versions = f"torch {torch.__version__} transformers {transformers.__version__}"
        place = self.device.type if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        threads = torch.get_num_threads() if self.device.type == "cpu" else 0
        given = self._adapter.spec.model_dump(exclude={"cut_prompt"})  # which the log's answers still have
        spec = json.dumps({**given, "max_new_tokens": new_tokens}, sort_keys=True, default=str)
        weights = f"{self.weights_hash} {self.revision}"
        numerics = f"{place} {threads} {self.dtype} {versions}"
        return content_key(question.content, weights, spec, numerics, self._code)

    def answer(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int
    ) -> tuple[list[str], TokenSums | None]:
        """Let the adapter answer one batch."""
        rows = ", ".join(str(question.doc_id) for question in questions)
        where = f"{self._adapter.spec.where}: task {questions[0].task}, rows {rows}"
        instances = [self._requests[question.task, question.doc_id] for question in questions]
        told = [replace(one, arguments=_told(one.args, new_tokens)) for one in instances]
        trusted = trusted_code(self._adapter, self._trusted)
        with complaints(where), trusted, unswallowed(self._inner, where):
            answers = self._inner.generate_until(told)
        if not isinstance(answers, Sequence) or len(answers) != len(questions):
            count = len(answers) if isinstance(answers, Sequence) else "no list of"
            raise DyrateError(f"{where}: {count} answers to {len(questions)} questions")
        if wrong := [answer for answer in answers if not isinstance(answer, str)]:
            raise DyrateError(f"{where}: an answer is {wrong[0]!r:.80}, which is no text")
        return list(answers), None

    def _accepted(self, questions: Sequence[Question], answers: Sequence[str]) -> Sequence[str]:
        found = []
        for question, answer in zip(questions, answers, strict=True):
            rest = _after(question.prompt, answer)
            if self._adapter.spec.cut_prompt:
                if rest is None:
                    raise DyrateError(
                        f"{self._adapter.spec.where}: task {question.task}, row {question.doc_id}: "
                        "`cut_prompt` is true, but this answer does not begin with its prompt: "
                        f"{answer!r:.120}"
                    )
                answer = rest.strip()
            self._echoes += rest is not None
            self._asked[question.task] += 1
            self._empty.update([question.task] if not answer.strip() else [])
            found.append(answer)
        self._check_echoes(_ENOUGH)
        return found

    def _check_echoes(self, enough: int) -> None:
        if not self._adapter.spec.cut_prompt and self._echoes == self._asked.total() >= enough:
            raise DyrateError(
                f"{self._adapter.spec.where}: its answers begin with the prompt, which would be scored with "
                "them. Say `cut_prompt: true` beside the adapter to have it cut off; what is answered is kept"
            )

    def _again(self) -> str:
        log = self.setting.log
        return "" if log is None else f"; remove {log} to have it asked again"

    def lengths(self, asked: Sequence[Request]) -> list[int]:
        """How long each prompt is, in characters of its text."""
        return [len(one.context) for one in asked]

    def _question(self, one: Request) -> Question:
        images = images_of(one, self.task_dict[one.task][one.split])
        pixels = [part for image in images for part in (f"{image.mode}{image.size}", colors(image))]
        return Question(one.context, images, content_key(one.context, *pixels), one.doc_id, one.task)


def _told(arguments: tuple[Any, ...], new_tokens: int) -> tuple[Any, ...]:
    """A request's arguments with all that says how to generate: adapters have defaults of their own."""
    context, generation, *others = arguments
    return (context, {**generation, **_GREEDY, "max_new_tokens": new_tokens}, *others)


def _dtype(modules: Sequence[torch.nn.Module]) -> str | None:
    """Of most of the weights; None where there are none."""
    counted: Counter[torch.dtype] = Counter()
    for parameter in (one for module in modules for one in module.parameters()):
        counted[parameter.dtype] += parameter.numel()
    return str(counted.most_common(1)[0][0]).removeprefix("torch.") if counted else None


def _after(prompt: str, answer: str) -> str | None:
    """What follows the prompt in an answer that begins with it, white space aside; else None."""
    wanted, seen = "".join(prompt.split()), 0
    for place, character in enumerate(answer):
        if seen == len(wanted):
            return answer[place:]
        if character.isspace():
            continue
        if character != wanted[seen]:
            return None
        seen += 1
    return "" if seen == len(wanted) else None
