"""The lmms-eval model `dyrate`: batched generation under a reduction method, with a response log.

On the command line, every hyperparameter in `model_args`:

    python -m lmms_eval --model dyrate --tasks gqa --batch_size 16 \\
        --model_args 'pretrained=llava-hf/llava-1.5-7b-hf,method=fastv,layer=2,rate=0.5,decoding=beam-2'

or as an instance, so that one loaded model sweeps many methods: `simple_evaluate(model=adapter, ...)`.
Prompts and answers are those of lmms-eval's own `llava_hf` (tested); like it, they are not cut at `until`.
The decoding strategy says how to generate: generation arguments of tasks that contradict it are refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
import transformers
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import ImageFile
from tqdm import tqdm

from dyrate.cost.work import work_of
from dyrate.errors import DyrateError
from dyrate.evaluation import checkpoint
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.generator import Generator
from dyrate.evaluation.log import ResponseLog, content_key
from dyrate.evaluation.prompts import PromptStyle
from dyrate.evaluation.provenance import answering_code
from dyrate.evaluation.requests import Query, Request, batches, colors, images_of, new_tokens
from dyrate.evaluation.visual_tokens import TokenSums, add, decode_steps, token_sums
from dyrate.question_reader import QuestionReader
from dyrate.registry import as_spec, load_method

if TYPE_CHECKING:
    from dyrate.run import Run

# Sees each generation: its doc ids, its run, the new tokens [rows, tokens], and the tokens that end a row.
Observer = Callable[[Sequence[int], "Run", torch.Tensor, int | list[int]], None]


def __getattr__(name: str) -> Any:
    """Make the entry point's `MANIFEST` when asked: importing lmms_eval.models above would ask too early."""
    if name != "MANIFEST":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="dyrate", simple_class_path=f"{__name__}.DyrateModel")


@dataclass
class TaskRecord:
    """What happened while one task was answered."""

    seconds: float = 0.0  # in generation
    generated: int = 0  # answers made now
    reused: int = 0  # answers found in the log
    tokens: list[TokenSums] = field(default_factory=list)  # per batch


class DyrateModel(lmms):  # type: ignore[misc]
    """A checkpoint of a supported family with a reduction method and a decoding strategy.

    `pretrained` is a folder or a hub id; `method` a name, a spec with `name`, or the spec as JSON, and
    further keywords are its hyperparameters; `decoding` likewise. `log` is the response log's file.
    """

    is_simple = True
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
        revision: str = "main",
        chat_template: str | None = None,
        log: str | Path | None = None,
        **hyperparameters: Any,
    ) -> None:
        super().__init__()
        self._device = checkpoint.choose_device(device or "auto")
        self.dtype = dtype
        self.batch_size = _positive("batch_size", batch_size)
        self._generator: Generator | None = None
        self.configure(method, decoding, log, **hyperparameters)  # before anything slow
        folder = checkpoint.locate(pretrained, revision)
        self.weights_hash = checkpoint.content_hash(folder)
        self.processor, self.model = checkpoint.load(folder, self._device, dtype)
        self.style = PromptStyle.of(self.processor, self.model.config.model_type, chat_template)
        questions = QuestionReader.of(self.tokenizer, folder)
        self._generator = Generator(self.model, self.tokenizer, engine, questions)
        self._generator.engine(self.decoding)
        self.method.check_checkpoint(self.weights_hash)

    @property
    def device(self) -> torch.device:
        """Where the model stands."""
        return self._device

    @property
    def engine(self) -> str:
        """What generates: `graph`, this package's own engine, or `transformers`."""
        assert self._generator is not None
        return self._generator.engine(self.decoding)

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    def configure(
        self,
        method: str | Mapping[str, Any] = "none",
        decoding: str | Mapping[str, Any] = "greedy",
        log: str | Path | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Choose what the next evaluation runs with; the loaded model stays."""
        self.method = load_method({**as_spec(method, "method"), **hyperparameters})
        self.decoding = decoding_spec(as_spec(decoding, "decoding"))
        if self._generator is not None:
            self._generator.engine(self.decoding)  # refuses what it cannot do
            self.method.check_checkpoint(self.weights_hash)
        self.log = Path(log) if log is not None else None
        self.records: dict[str, TaskRecord] = {}
        self._code = f"{answering_code(self.method.spec())} {self.method.content_hash}"
        self._chunk = self.batch_size

    def release(self) -> None:
        """Give back the memory that generation keeps for its next batch; the next one starts afresh."""
        if self._generator is not None:
            self._generator.release()

    def clean(self) -> None:
        """Keep the model: lmms-eval would delete it after each evaluation."""

    @property
    def doing(self) -> str:
        """What progress bars call the work."""
        return self.method.label

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer the requests, in their order.

        The batches are laid out from all requests before the log is looked at, so that a resumed run computes
        the same batches as an undisturbed one.
        """
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval has Pillow fill up broken images with grey
        asked = [Request.of(instance.args) for instance in requests]
        layout = batches(asked, self._lengths(asked), self.batch_size)
        limits = [new_tokens(asked[places[0]], self.decoding) for places in layout]  # before anything slow
        answers: dict[int, str] = {}
        bar = tqdm(total=len(asked), desc=self.doing, unit="sample", mininterval=1, disable=self.rank != 0)
        with bar, self._open_log() as log:
            for places, limit in zip(layout, limits, strict=True):
                batch = [asked[i] for i in places]
                for place, answer in zip(places, self._answer(batch, limit, log), strict=True):
                    answers[place] = answer
                bar.update(len(places))
        return [answers[index] for index in range(len(asked))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: reduction methods are defined on generation."""
        raise DyrateError("the dyrate model generates; tasks of output_type loglikelihood are not supported")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: a second generation on a pruned cache would not see the first one's tokens."""
        raise DyrateError("the dyrate model answers single-turn tasks; multi-round tasks are not supported")

    def _open_log(self) -> ResponseLog:
        path = self.log
        if path is not None and self.world_size > 1:
            path = path.with_name(f"{path.name}.{self.rank}")
        return ResponseLog(path)

    def _lengths(self, asked: Sequence[Request]) -> list[int]:
        return [len(ids) for ids in self.tokenizer([one.context for one in asked])["input_ids"]]

    def _answer(self, asked: Sequence[Request], new_tokens: int, log: ResponseLog) -> list[str]:
        record = self.records.setdefault(asked[0].task, TaskRecord())
        queries = [self._query(one, new_tokens) for one in asked]
        keys = [query.key for query in queries]
        batch = None if self.observer else log.get(keys)  # nothing is to be seen of logged answers
        if batch is None:
            started = perf_counter()
            answers, tokens = self.answer(queries, new_tokens)
            record.seconds += perf_counter() - started
            record.generated += len(asked)
            batch = log.append(keys, answers, tokens)
        else:
            record.reused += len(asked)
        if "tokens" in batch:
            record.tokens.append(batch["tokens"])
        return batch["answers"]

    def _query(self, one: Request, new_tokens: int) -> Query:
        images = images_of(one, self.task_dict[one.task][one.split])
        prompt = self.style.render(one.context, len(images))
        if (places := prompt.count(self.processor.image_token)) != len(images):
            raise DyrateError(
                f"{one}: its text has {places} places for images ({self.processor.image_token}) with "
                f"{len(images)} images: take them out of the row's text"
            )
        pixels = [part for image in images for part in (f"{image.mode}{image.size}", colors(image))]
        content = content_key(prompt, *pixels)
        versions = f"torch {torch.__version__} transformers {transformers.__version__}"
        numerics = f"{self._processor()} {self.engine} {self.dtype} {versions}"
        setting = json.dumps({**self.decoding, "max_new_tokens": new_tokens}, sort_keys=True)
        method = json.dumps(self.method.spec(), sort_keys=True)
        key = content_key(content, self.weights_hash, numerics, setting, method, self._code)
        return Query(prompt, images, key, content, one.doc_id, one.task)

    def _processor(self) -> str:
        """What computes: sums are made in another order on another GPU or by another number of threads."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"

    def answer(self, queries: Sequence[Query], new_tokens: int) -> tuple[list[str], TokenSums | None]:
        """Answer one batch, in halves from the first time that it does not fit into memory."""
        answers: list[str] = []
        sums: TokenSums | None = None
        while len(answers) < len(queries):
            part = queries[len(answers) : len(answers) + self._chunk]
            done = self._try(part, new_tokens)
            if done is None:
                self._chunk = len(part) // 2
                logger.warning(
                    "out of memory with {} samples at once: going on with {}", len(part), self._chunk
                )
                self.release()
                continue
            answers += done[0]
            sums = add(sums, done[1])
        return answers, sums

    def _try(self, queries: Sequence[Query], new_tokens: int) -> tuple[list[str], TokenSums | None] | None:
        """Answers and token sums, or None where memory is short and the batch can still be halved."""
        try:
            return self._run(queries, new_tokens)
        except DyrateError as error:
            rows = ", ".join(str(query.doc_id) for query in queries)
            raise DyrateError(f"task {queries[0].task}, rows {rows}: {error}") from error
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if len(queries) == 1 or not _is_out_of_memory(error):
                raise
        return None

    def read(self, queries: Sequence[Query]) -> Mapping[str, torch.Tensor]:
        """Return a batch of questions as the model reads it: input_ids, attention_mask, pixel_values."""
        images = [image for query in queries for image in query.images]
        found: Mapping[str, torch.Tensor] = self.processor(
            text=[query.prompt for query in queries], images=images or None, padding=True, return_tensors="pt"
        ).to(self.device, self.model.dtype)
        return found

    def _check_room(self, queries: Sequence[Query], mask: torch.Tensor, new_tokens: int) -> None:
        """Refuse to go on where the model knows no positions; transformers would."""
        positions = self.model.config.get_text_config().max_position_embeddings
        for query, length in zip(queries, mask.sum(dim=1).tolist(), strict=True):
            if length + new_tokens > positions:
                raise DyrateError(
                    f"row {query.doc_id} has a prompt of {length} tokens and {new_tokens} new ones, but the "
                    f"model has {positions} positions (max_position_embeddings): shorten one of the two"
                )

    @torch.inference_mode()
    def _run(self, queries: Sequence[Query], new_tokens: int) -> tuple[list[str], TokenSums | None]:
        inputs = self.read(queries)
        self._check_room(queries, inputs["attention_mask"], new_tokens)
        assert self._generator is not None
        streams = [query.stream for query in queries]
        made, run = self._generator.generate(
            self.method, self.decoding, inputs, streams, new_tokens, self.recorded
        )
        ends = self._generator.ends
        if self.observer:
            self.observer([query.doc_id for query in queries], run, made, ends)
        answers = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        if "pixel_values" not in inputs:
            return answers, None
        steps = decode_steps(made, ends)
        sums = token_sums(run, steps)
        beams = len(run.visual_tokens) // len(steps)
        sums["work"] = work_of(run, self.method, steps.repeat_interleave(beams)).to_json()
        return answers, sums


def _positive(name: str, value: int | str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise DyrateError(f"{name} is {value!r}; it should be a whole number from 1 on")
    return int(value)


def _is_out_of_memory(error: BaseException) -> bool:
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in texts
    )
