"""Captions per second through the whole evaluation harness: images in, answers out, beside lmms-eval's own
`llava_hf`, which takes one sample at a time.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from dyrate.bench.limits import synchronise
from dyrate.bench.models import loaded_model, random_model
from dyrate.cost.shapes import ModelShape
from dyrate.evaluation import adapter, checkpoint
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.checkpoint_files import complaints
from dyrate.evaluation.harness import ask
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.registry import load_method
from dyrate.testbed.benchmarks.build import build

TASK = "nocaps"


@dataclass
class Throughput:
    """One way to answer, and how long its rounds took."""

    name: str
    samples: int
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    """Of the last round's answers, as the tokenizer reads them back."""


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


def throughput(
    model: str | ModelShape,
    processor: Path,
    methods: Sequence[dict[str, Any]],
    *,
    samples: int,
    peer_samples: int,
    batch_size: int,
    new_tokens: int,
    rounds: int,
    device: torch.device,
    dtype: str,
    say: Callable[[str], None],
) -> list[Throughput]:
    """Answer the testbed's captioning questions by `llava_hf` and by this package, in alternating rounds.

    `model` is a checkpoint, or a shape, which gets random weights and `processor`'s tokenizer. The first
    entry is `llava_hf`, on the first `peer_samples` of the questions.
    """
    whole = (
        loaded_model(model, device, dtype)
        if isinstance(model, str)
        else random_model(model, device, getattr(torch, dtype))
    )
    with tempfile.TemporaryDirectory(prefix="dyrate-harness-") as data:
        build((TASK,), samples, seed=0, output_dir=Path(data))
        with checkpoint_like(whole, processor) as folder:
            ours = _adapter(whole, folder, device, dtype, batch_size)
            peer = _llava_hf(whole, folder, device, dtype)
            peer_task, task = (_task(Path(data), count, new_tokens) for count in (peer_samples, samples))
            found = [Throughput("llava_hf", peer_samples)]
            found += [Throughput(load_method(method).label, samples) for method in methods]
            for number in range(rounds + 1):  # the first one warms up
                for index, entry in enumerate(found):
                    asked, by = (task, ours) if index else (peer_task, peer)
                    if index:
                        ours.configure(methods[index - 1])
                    synchronise(device)
                    started = perf_counter()
                    answers = ask(by, asked)
                    synchronise(device)
                    took = perf_counter() - started
                    say(f"{entry.name}: {entry.samples / took:.2f} captions/s")
                    if number:
                        entry.seconds.append(took)
                    entry.tokens = sum(map(len, ours.tokenizer(answers)["input_ids"]))
    return found


def _task(data: Path, samples: int, new_tokens: int) -> LoadedTask:
    (loaded,) = load_tasks(select((TASK,)), "testbed", data, samples, primary_only=True)
    loaded.task.set_config("generation_kwargs", {"max_new_tokens": new_tokens}, update=True)
    return loaded


def _adapter(
    model: Any, folder: Path, device: torch.device, dtype: str, batch_size: int
) -> "adapter.DyrateModel":
    with patch.object(checkpoint, "load_model", lambda *arguments: model):
        return adapter.DyrateModel(str(folder), device=str(device), dtype=dtype, batch_size=batch_size)


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
