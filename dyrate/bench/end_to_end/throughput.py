"""Captions per second through the whole evaluation harness: images in, answers out, beside lmms-eval's own
`llava_hf`, which takes one sample at a time.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from dyrate.bench.end_to_end.job import HarnessBench
from dyrate.bench.limits import synchronise
from dyrate.bench.models import SHAPES, loaded_model, named_shape, random_model
from dyrate.cost.shapes import ModelShape
from dyrate.errors import DyrateError
from dyrate.evaluation import adapter, checkpoint
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.checkpoint_files import complaints
from dyrate.evaluation.harness import ask, questions_of
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.evaluation.requests import Request, batches, new_tokens
from dyrate.registry import load_method
from dyrate.speed.documents import ThroughputRow
from dyrate.testbed.benchmarks.build import build


@contextmanager
def checkpoint_like(model: Any, processor: Path) -> Iterator[Path]:
    """Yield a folder that describes `model`, without weights, and with a processor of its image size."""
    from transformers import AutoProcessor

    vision = model.config.vision_config
    with complaints(f"--processor {processor}"):
        made = AutoProcessor.from_pretrained(processor)
    made.image_processor.size = {"shortest_edge": vision.image_size}
    made.image_processor.crop_size = {"height": vision.image_size, "width": vision.image_size}
    made.patch_size = vision.patch_size
    model.config.image_token_id = made.tokenizer.convert_tokens_to_ids(made.image_token)
    with tempfile.TemporaryDirectory(prefix="dyrate-harness-") as folder:
        made.save_pretrained(folder)
        model.config.save_pretrained(folder)
        save_file({}, Path(folder) / "model.safetensors")  # the weights are in `model` already
        yield Path(folder)


def throughput(job: HarnessBench, device: torch.device) -> list[ThroughputRow]:
    """Answer the testbed's questions of a task by `llava_hf` and by this package, in alternating rounds, in
    which generation alone is timed as well.

    The model is a checkpoint, or a shape, which gets random weights and the processor's tokenizer. The first
    row is `llava_hf`, on the first `job.peer_samples` of the questions.
    """
    whole = (
        loaded_model(job.model, device, job.dtype)
        if job.model
        else random_model(_shape(job), device, getattr(torch, job.dtype))
    )
    names = ["llava_hf", *(load_method(method).label for method in job.methods)]
    samples = [job.peer_samples, *[job.samples] * len(job.methods)]
    seconds: list[list[float]] = [[] for _ in names]
    alone: list[list[float]] = [[] for _ in names]
    tokens = [0] * len(names)
    with tempfile.TemporaryDirectory(prefix="dyrate-harness-") as data:
        build((job.task,), job.samples, seed=0, output_dir=Path(data))
        with checkpoint_like(whole, job.processor) as folder:
            ours = _adapter(whole, folder, device, job)
            peer = _llava_hf(whole, folder, device, job.dtype)
            peer_task, task = (_task(Path(data), count, job) for count in (job.peer_samples, job.samples))
            for number in range(job.rounds + 1):  # the first one warms up
                for index, name in enumerate(names):
                    asked, by = (task, ours) if index else (peer_task, peer)
                    if index:
                        ours.configure(job.methods[index - 1])
                    answers: list[str] = []
                    took = _seconds(device, lambda: answers.extend(ask(by, asked)))  # noqa: B023
                    sys.stderr.write(f"{name}: {samples[index] / took:.2f} answers/s\n")
                    if number:
                        seconds[index].append(took)
                        if index:
                            alone[index].append(sum(_generation(ours, task, device)))
                    tokens[index] = sum(map(len, ours.tokenizer(answers)["input_ids"]))
    rates = [count / median(times) for count, times in zip(samples, seconds, strict=True)]
    return [
        ThroughputRow(
            name=name,
            samples=samples[i],
            seconds=tuple(seconds[i]),
            tokens=tokens[i],
            captions_per_second=rates[i],
            speedup=rates[i] / rates[0],
            engine_seconds=tuple(alone[i]),
            engine_share=median(alone[i]) / median(seconds[i]) if alone[i] else None,
        )
        for i, name in enumerate(names)
    ]


def _shape(job: HarnessBench) -> ModelShape:
    """The shape that is asked for; a `DyrateError` for one that the testbed's processor does not suit."""
    shape = named_shape(job.shape or "")
    if not isinstance(shape, ModelShape):
        raise DyrateError(f"--shape {job.shape}: the processor is a LLaVA's; known here: {', '.join(SHAPES)}")
    return shape


def _seconds(device: torch.device, run: Callable[[], object]) -> float:
    """How long `run` takes, with all that it has the device do."""
    synchronise(device)
    started = perf_counter()
    run()
    synchronise(device)
    return perf_counter() - started


def _generation(ours: "adapter.DyrateModel", task: LoadedTask, device: torch.device) -> Iterator[float]:
    """Yield how long each batch of a task takes that lies on the device already."""
    asked = [Request.of(instance.args) for instance in questions_of(ours, task)]
    for places in batches(asked, ours.lengths(asked), ours.batch_size):
        questions = ours.prepare([asked[place] for place in places])
        limit = new_tokens(asked[places[0]], ours.decoding)
        ours.hold(questions)
        yield _seconds(device, lambda: ours.generate(ours.setting, questions, limit))  # noqa: B023


def _task(data: Path, samples: int, job: HarnessBench) -> LoadedTask:
    (loaded,) = load_tasks(select((job.task,)), "testbed", data, samples, primary_only=True)
    loaded.task.set_config("generation_kwargs", {"max_new_tokens": job.new_tokens}, update=True)
    return loaded


def _adapter(model: Any, folder: Path, device: torch.device, job: HarnessBench) -> "adapter.DyrateModel":
    with patch.object(checkpoint, "load_model", lambda *arguments: model):
        return adapter.DyrateModel(
            str(folder), device=str(device), dtype=job.dtype, batch_size=job.batch_size
        )


def _llava_hf(model: Any, folder: Path, device: torch.device, dtype: str) -> Any:
    from transformers import LlavaForConditionalGeneration

    reader = ModuleType("decord")  # of videos, which it imports and images never need
    reader.VideoReader = reader.cpu = None  # type: ignore[attr-defined]
    with (
        patch.dict(sys.modules, {"decord": reader}),
        patch.object(LlavaForConditionalGeneration, "from_pretrained", lambda *_, **__: model),
    ):
        from lmms_eval.models.simple.llava_hf import LlavaHf

        return LlavaHf(str(folder), device=str(device), device_map=str(device), dtype=dtype, batch_size=1)
