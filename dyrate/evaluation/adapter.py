"""The lmms-eval model `dyrate`: batched generation under a reduction method, with a response log.

On the command line, every hyperparameter in `model_args`:

    python -m lmms_eval --model dyrate --tasks gqa --batch_size 16 \\
        --model_args 'pretrained=llava-hf/llava-1.5-7b-hf,method=fastv,layer=2,rate=0.5,decoding=beam-2'

or as an instance, so that one loaded model sweeps many methods: `simple_evaluate(model=adapter, ...)`.
Prompts and answers are those of lmms-eval's own `llava_hf` (tested); like it, they are not cut at `until`.
The decoding strategy says how to generate: generation arguments of tasks that contradict it are refused.
"""

import copy
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from loguru import logger
from PIL import Image

from dyrate.cost.shapes import ModelShape
from dyrate.cost.work import work_of
from dyrate.errors import DyrateError
from dyrate.evaluation import checkpoint, results
from dyrate.evaluation.answering import Answering
from dyrate.evaluation.generator import Generator
from dyrate.evaluation.log import content_key
from dyrate.evaluation.placement import Fit
from dyrate.evaluation.prompts import PromptStyle, read_template
from dyrate.evaluation.requests import Question, Request, colors, images_of
from dyrate.evaluation.setting import Setting
from dyrate.evaluation.visual_tokens import TokenSums, add, decode_steps, token_sums
from dyrate.question_reader import QuestionReader
from dyrate.registry import as_spec

if TYPE_CHECKING:
    from dyrate.run import Run

_READERS = 4
"""At most; one more and the next batch is ready before it is asked for, at any size of image."""
# Sees each generation: its doc ids, its run, the new tokens [rows, tokens], and the tokens that end a row.
Observer = Callable[[Sequence[int], "Run", torch.Tensor, int | list[int]], None]


def __getattr__(name: str) -> Any:
    """Make the entry point's `MANIFEST` when asked: importing lmms_eval.models above would ask too early."""
    if name != "MANIFEST":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="dyrate", simple_class_path=f"{__name__}.DyrateModel")


class DyrateModel(Answering):
    """A checkpoint of a supported family with a reduction method and a decoding strategy.

    `pretrained` is a folder or a hub id, of which `revision` is a commit; `chat_template` a name, a file or a
    text, where the checkpoint's own is not wanted; `pixels` the least and the most of an image, likewise, as
    two numbers or as a text, "200704 1605632"; `method` a name, a spec with `name`, or the spec as JSON,
    and further keywords are its hyperparameters; `decoding` likewise. `log` is the response log's file;
    `device_map` and `bits` are for a model that no single device has room for: see `placement.Fit`.
    """

    observer: Observer | None = None
    recorded: Sequence[int] = ()  # layers whose class mass the observer wants to see

    def __init__(
        self,
        pretrained: str,
        method: str | Mapping[str, Any] = "none",
        decoding: str | Mapping[str, Any] = "greedy",
        device: str | None = None,
        dtype: str = "float32",
        engine: str = "auto",
        batch_size: int | str = 1,
        revision: str | None = None,
        chat_template: str | None = None,
        pixels: str | Sequence[int] | None = None,
        log: str | Path | None = None,
        device_map: str | None = None,
        bits: int | str | None = None,
        **hyperparameters: Any,
    ) -> None:
        super().__init__()
        self.fit = Fit.of(device_map, bits, engine)
        self.pixels = _bounds(pixels)
        self._device = checkpoint.choose_device(device or "auto", self.fit)
        self.dtype = dtype
        self.batch_size = _positive("batch_size", batch_size)
        self._generator: Generator | None = None
        self.configure(method, decoding, log, **hyperparameters)  # before anything slow
        self.folder = folder = checkpoint.locate(pretrained, revision)
        self.revision = checkpoint.commit_of(folder)
        self.weights_hash = checkpoint.content_hash(folder)
        self._connector = checkpoint.connector_of(folder)
        self.processor, self.model = checkpoint.load(folder, self._device, dtype, self.fit, self.pixels)
        template = read_template(chat_template)
        self.style = PromptStyle.of(self.processor, self.model.config.model_type, template)
        self.template_hash = self.style.hash
        questions = QuestionReader.of(self.tokenizer, checkpoint.base_of(folder))
        engine = "transformers" if self.fit.told else engine
        self._generator = Generator(self.model, self.tokenizer, engine, questions)
        self.check(self.setting)
        self._inputs: tuple[Sequence[str], Mapping[str, torch.Tensor]] = (), {}
        # On a CPU they would be in the way of what they make batches ready for.
        self.readers = min(_READERS, os.cpu_count() or 1) if self._device.type == "cuda" else 0
        self._thread = threading.local()
        self._early: dict[tuple[str, ...], Any] = {}  # batches that a thread has read, by their contents
        self._generated, self._reading = False, True

    @property
    def engine(self) -> str:
        """What generates: `graph`, this package's own engine, or `transformers`."""
        return self.engine_for(self.setting)

    def engine_for(self, setting: Setting) -> str:
        """What generates with a setting."""
        assert self._generator is not None
        return self._generator.engine(setting.decoding, setting.method)

    @property
    def connector(self) -> results.Connector | None:
        """What was trained into the place of its own connector, if anything."""
        return self._connector

    @property
    def repetition_penalty(self) -> float:
        """The checkpoint's own."""
        assert self._generator is not None
        return self._generator.repetition_penalty

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def shape(self) -> results.Shape:
        """The sizes of the model, which FLOPs are counted from."""
        return cast(results.Shape, asdict(ModelShape.of(self.model.config)))

    def configure(
        self,
        method: str | Mapping[str, Any] = "none",
        decoding: str | Mapping[str, Any] = "greedy",
        log: str | Path | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Choose what the next evaluation runs with; the loaded model stays."""
        self.use(Setting.of({**as_spec(method, "method"), **hyperparameters}, decoding, log))

    def check(self, setting: Setting) -> None:
        """Refuse what the engine cannot do, and what was trained on another checkpoint."""
        if self._generator is None:
            return  # it is not loaded yet, and is asked again when it is
        self._generator.engine(setting.decoding, setting.method)
        setting.method.check_checkpoint(self.weights_hash)

    def release(self) -> None:
        """Give back the memory that generation keeps for its next batch; the next one starts afresh."""
        self._inputs = (), {}
        self._early.clear()  # what an error left unanswered; a batch to come is read again
        if self._generator is not None:
            self._generator.release()

    @property
    def watched(self) -> bool:
        """Whether an observer sees each generation."""
        return self.observer is not None

    def lengths(self, asked: Sequence[Request]) -> list[int]:
        """How long each prompt is, in tokens of its text."""
        return [len(ids) for ids in self.tokenizer([one.context for one in asked])["input_ids"]]

    def prepare(self, batch: Sequence[Request]) -> Sequence[Question]:
        """Make a batch ready, in one of `readers` threads: its images are decoded, and, where batches are
        being answered, the processor has read it.
        """
        questions = super().prepare(batch)
        if self.readers and self._reading:
            if not hasattr(self._thread, "processor"):
                self._thread.processor = copy.deepcopy(self.processor)  # tokenizers bear one thread at a time
            read = self._read(questions, self._thread.processor)
            self._early[tuple(question.content for question in questions)] = read
        return questions

    def _finish(self, questions: Sequence[Question]) -> None:
        super()._finish(questions)
        self._early.pop(tuple(question.content for question in questions), None)
        # While batches come from the log, those after them are left unread.
        self._reading, self._generated = self._generated, False

    def _question(self, one: Request) -> Question:
        return self.question(one, images_of(one, self.task_dict[one.task][one.split]))

    def question(self, one: Request, images: Sequence[Image.Image]) -> Question:
        """Return a request about images as the model gets it; refuses a text with places for others."""
        prompt = self.style.render(one.context, len(images))
        if (places := prompt.count(self.processor.image_token)) != len(images):
            raise DyrateError(
                f"{one}: its text has {places} places for images ({self.processor.image_token}) with "
                f"{len(images)} images: take them out of the row's text"
            )
        pixels = [part for image in images for part in (f"{image.mode}{image.size}", colors(image))]
        return Question(prompt, images, content_key(prompt, *pixels), one.doc_id, one.task)

    def key(self, setting: Setting, question: Question, new_tokens: int) -> str:
        """Return what finds an answer in a log."""
        versions = f"torch {torch.__version__} transformers {transformers.__version__}"
        fit = "".join(f" {name} {value}" for name, value in self.fit.told.items())
        # Answers without bounds are found under the keys that they had before there were any.
        fit += "" if self.pixels is None else f" pixels {self.pixels}"
        numerics = f"{self._processor()} {self.engine_for(setting)} {self.dtype}{fit} {versions}"
        limited = json.dumps({**setting.decoding, "max_new_tokens": new_tokens}, sort_keys=True)
        method = json.dumps(setting.method.spec(), sort_keys=True)
        return content_key(question.content, self.weights_hash, numerics, limited, method, setting.code)

    def _processor(self) -> str:
        """What computes: sums are made in another order on another GPU or by another number of threads."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"

    def answer(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int
    ) -> tuple[list[str], TokenSums | None]:
        """Answer one batch, in halves from the first time that it does not fit into memory."""
        answers: list[str] = []
        sums: TokenSums | None = None
        chunk = setting.chunk or self.batch_size
        while len(answers) < len(questions):
            part = questions[len(answers) : len(answers) + chunk]
            done = self._try(setting, part, new_tokens)
            if done is None:
                setting.chunk = chunk = len(part) // 2
                logger.warning("out of memory with {} samples at once: going on with {}", len(part), chunk)
                self.release()
                continue
            answers += done[0]
            sums = add(sums, done[1])
        return answers, sums

    def _try(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int
    ) -> tuple[list[str], TokenSums | None] | None:
        """Answers and token sums, or None where memory is short and the batch can still be halved."""
        try:
            return self._run(setting, questions, new_tokens)
        except DyrateError as error:
            rows = ", ".join(str(question.doc_id) for question in questions)
            raise DyrateError(f"task {questions[0].task}, rows {rows}: {error}") from error
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if len(questions) == 1 or not _is_out_of_memory(error):
                raise
        return None

    def read(self, questions: Sequence[Question]) -> Mapping[str, torch.Tensor]:
        """Return a batch of questions as the model reads it: input_ids, attention_mask, pixel_values."""
        early = self._early.get(tuple(question.content for question in questions))
        read = self._read(questions, self.processor) if early is None else early
        found: Mapping[str, torch.Tensor] = read.to(self.device)
        return found

    def hold(self, questions: Sequence[Question]) -> Mapping[str, torch.Tensor]:
        """Read a batch, unless it is the one that was read last; what was read stays until another one is."""
        contents = [question.content for question in questions]
        if self._inputs[0] != contents:
            self._inputs = contents, self.read(questions)
        return self._inputs[1]

    def _read(self, questions: Sequence[Question], processor: Any) -> Any:
        images = [image for question in questions for image in question.images]
        read = processor(
            text=[question.prompt for question in questions],
            images=images or None,
            padding=True,
            return_tensors="pt",
        )
        return read.to(self.model.dtype)

    def _check_room(self, questions: Sequence[Question], mask: torch.Tensor, new_tokens: int) -> None:
        """Refuse to go on where the model knows no positions; transformers would."""
        positions = self.model.config.get_text_config().max_position_embeddings
        for question, length in zip(questions, mask.sum(dim=1).tolist(), strict=True):
            if length + new_tokens > positions:
                raise DyrateError(
                    f"row {question.doc_id} has a prompt of {length} tokens and {new_tokens} new ones, but "
                    f"the model has {positions} positions (max_position_embeddings): shorten one of the two"
                )

    @torch.inference_mode()
    def generate(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int, streamer: Any = None
    ) -> tuple[Mapping[str, torch.Tensor], torch.Tensor, "Run"]:
        """Answer one batch as it is: what the model read, the new tokens [rows, tokens], and the run.

        `streamer`, one of transformers', is told each token of a single question as it is made.
        """
        inputs = self.hold(questions)
        self._generated = True
        self._check_room(questions, inputs["attention_mask"], new_tokens)
        assert self._generator is not None
        made, run = self._generator.generate(
            setting.method, setting.decoding, inputs, self._inputs[0], new_tokens, self.recorded, streamer
        )
        return inputs, made, run

    @property
    def ends(self) -> int | list[int]:
        """The tokens that end an answer."""
        assert self._generator is not None
        return self._generator.ends

    @torch.inference_mode()
    def _run(
        self, setting: Setting, questions: Sequence[Question], new_tokens: int
    ) -> tuple[list[str], TokenSums | None]:
        inputs, made, run = self.generate(setting, questions, new_tokens)
        ends = self.ends
        if self.observer:
            self.observer([question.doc_id for question in questions], run, made, ends)
        answers = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        if "pixel_values" not in inputs:
            return answers, None
        steps = decode_steps(made, ends)
        sums = token_sums(run, steps)
        beams = len(run.visual_tokens) // len(steps)
        sums["work"] = work_of(run, setting.method, steps.repeat_interleave(beams)).to_json()
        return answers, sums


def _bounds(pixels: str | Sequence[int] | None) -> tuple[int, int] | None:
    if pixels is None:
        return None
    given = pixels.split() if isinstance(pixels, str) else [*pixels]
    bounds = [_positive("pixels", value) for value in given]
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise DyrateError(
            f"pixels is {pixels!r}; it should be two numbers: the least and the most of an image"
        )
    return bounds[0], bounds[1]


def _positive(name: str, value: int | str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise DyrateError(f"{name} is {value!r}; it should be a whole number from 1 on")
    return int(value)


def _is_out_of_memory(error: BaseException) -> bool:
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in texts
    )
