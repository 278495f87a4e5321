"""Trains a testbed model from nothing: recipe, data stream, the loop, and what is saved at the end."""

import hashlib
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from dyrate.errors import DyrateError
from dyrate.testbed import checkpoint, world
from dyrate.testbed.held_out import CAPTION_KIND, Accuracy, HeldOut
from dyrate.testbed.model import build_model, build_processor, size_of
from dyrate.testbed.packing import Batch, Packer, normalise, packed_logits, packed_loss
from dyrate.testbed.schedule import Plan
from dyrate.testbed.tokenizer import train_tokenizer

SHARD_SIZE = "14MB"
DECAY_SHARE = 0.3  # of the time, where time decides
LOOK_EVERY = 20  # steps between looks at the clock and the loss; a look waits for the GPU
TOKENIZER_SEED = 0  # one tokenizer for every testbed model, whatever seed it is trained with


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the trained weights, apart from the arithmetic of the machine."""

    model: str
    seed: int = 0
    steps: int = 20_000  # more than nine minutes afford: the clock decides
    decay_steps: int = 6_000
    batch_size: int = 384
    pack_length: int = 512
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 300
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    precision: str = "bfloat16"  # of the arithmetic; weights and optimiser are float32
    tokenizer_examples: int = 2000


RECIPES = {
    "testbed-tiny": Recipe(
        "testbed-tiny",
        steps=20,
        decay_steps=6,
        batch_size=8,
        warmup_steps=2,
        precision="float32",
        tokenizer_examples=100,
    ),
    "testbed-s": Recipe("testbed-s"),
    "testbed-m": Recipe("testbed-m"),
}


@dataclass(frozen=True)
class Machine:
    """Where and how long to train: nothing here but `minutes` changes which weights come out."""

    device: str = "cpu"
    workers: int = 0
    compile: bool = False
    minutes: float | None = None
    report_seconds: float = 60.0  # between checkpoints, each with a held-out score


@dataclass
class Progress:
    """What a run has done so far; with the weights and the optimiser's state, all that a resume needs."""

    plan: Plan
    step: int = 0
    seconds: float = 0.0
    resumed: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Rebuild from `dataclasses.asdict`."""
        return cls(**{**values, "plan": Plan(**values["plan"])})


class TrainingStream(Dataset[Batch]):
    """Item i is the batch of step i: a function of the seed and i alone, whatever the number of workers."""

    def __init__(self, packer: Packer, seed: int, batch_size: int) -> None:
        self.packer, self.seed, self.batch_size = packer, seed, batch_size

    def __getitem__(self, step: int) -> Batch:
        first = step * self.batch_size
        indices = range(first, first + self.batch_size)
        return self.packer.batch(world.training_example(self.seed, index) for index in indices)[0]


class Trainer:
    """A model in training: weights, optimiser, data and progress."""

    def __init__(self, recipe: Recipe, machine: Machine, checkpoint_directory: Path) -> None:
        size = size_of(recipe.model)
        self.recipe, self.machine, self.directory = recipe, machine, checkpoint_directory
        self.device = torch.device(machine.device)
        self.tokenizer = world_tokenizer(recipe.tokenizer_examples)
        self.processor: LlavaProcessor = build_processor(self.tokenizer)
        self.packer = Packer(self.tokenizer, recipe.pack_length)
        self.model = build_model(size, self.tokenizer, recipe.seed).to(self.device)
        self.optimizer = _optimizer(self.model, recipe)
        self.progress = Progress(Plan(recipe.steps - recipe.decay_steps, recipe.steps))
        self._mean = torch.tensor(self.processor.image_processor.image_mean, device=self.device)
        self._std = torch.tensor(self.processor.image_processor.image_std, device=self.device)
        self._resume()
        if machine.compile:
            # Layer by layer: all layers of one kind share one compilation, which takes seconds, not minutes.
            for module in self.model.modules():
                if isinstance(module, (CLIPEncoderLayer, LlamaDecoderLayer)):
                    module.compile()

    def _resume(self) -> None:
        found = checkpoint.load(self.directory)
        if found is None:
            return
        saved, tensors = found
        wanted = asdict(self.recipe)
        different = [key for key in wanted if saved["recipe"].get(key) != wanted[key]]
        if different:
            changes = ", ".join(
                f"{key}: {saved['recipe'].get(key)!r} there, {wanted[key]!r} now" for key in different
            )
            raise DyrateError(
                f"the checkpoint in {self.directory} belongs to another recipe ({changes}); "
                "name another --checkpoint, or remove it to start anew"
            )
        checkpoint.restore(self.model, self.optimizer, tensors)
        self.progress = Progress.from_json(saved["progress"])
        self.progress.resumed += 1

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits, [B, S, vocabulary], of a packed batch that may lie on another device."""
        batch = batch.to(self.device)
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext():
            return packed_logits(self.model, batch, normalise(batch.images, self._mean, self._std))

    def advance(self, batch: Batch) -> Tensor:
        """Take one optimiser step; return the loss, a scalar still on the device."""
        rate = self.progress.plan.learning_rate(
            self.progress.step, self.recipe.peak_learning_rate, self.recipe.warmup_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = batch.to(self.device)
        loss = packed_loss(self.logits(batch), batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return loss.detach()

    def run(self, stop_after: int | None = None) -> bool:
        """Train to the end of the plan or of the time, or for `stop_after` steps; leaves a checkpoint behind.

        Returns:
            Whether the training is over.
        """
        progress = self.progress
        held_out = self.held_out(256)
        meter = _Meter(progress)
        last = None if stop_after is None else progress.step + stop_after
        batches = self._batches()
        interval = 0.5 if sys.stderr.isatty() else 20.0
        self.model.train()
        with tqdm(total=progress.plan.steps, initial=progress.step, unit="step", mininterval=interval) as bar:
            while progress.step < progress.plan.steps and progress.step != last and not self._late():
                meter.add(self.advance(meter.waiting_for(batches)))
                bar.update()
                if progress.step % LOOK_EVERY == 0:
                    self._keep_time(meter)
                    bar.total = progress.plan.steps
                    bar.set_postfix(
                        loss=f"{meter.recent_loss():.3f}",
                        lr=f"{self.optimizer.param_groups[0]['lr']:.1e}",
                        images_s=f"{meter.images_per_second(self.recipe):.0f}",
                    )
                    if meter.since_report() > self.machine.report_seconds:
                        tqdm.write(self._report(meter, held_out))
            if meter.steps:
                tqdm.write(self._report(meter, held_out))
        return progress.step == progress.plan.steps or self._late()

    def _batches(self) -> Iterator[Batch]:
        steps = range(self.progress.step, self.recipe.steps)
        stream = TrainingStream(self.packer, self.recipe.seed, self.recipe.batch_size)
        loader: DataLoader[Batch] = DataLoader(
            stream,
            batch_size=None,
            sampler=steps,
            num_workers=self.machine.workers,
            pin_memory=self.device.type == "cuda",
        )
        return iter(loader)

    def _keep_time(self, meter: "_Meter") -> None:
        self.progress.seconds = meter.seconds()
        if self.machine.minutes is not None and meter.steps_per_second() > 0:
            self.progress.plan = self.progress.plan.within(
                self.progress.step,
                self.progress.seconds,
                self.machine.minutes * 60,
                meter.steps_per_second(),
                DECAY_SHARE,
            )

    def _late(self) -> bool:
        """Whether the time is up by more than the plan's own error, as when the machine has become slower."""
        return self.machine.minutes is not None and self.progress.seconds > 1.05 * 60 * self.machine.minutes

    def _report(self, meter: "_Meter", held_out: HeldOut) -> str:
        """Append to the curve, write a checkpoint, and return one line for people."""
        progress = self.progress
        loss, wait = meter.report()
        if math.isnan(loss):
            raise DyrateError(
                f"the loss is not a number at step {progress.step}; the last checkpoint is kept"
            )
        progress.seconds = meter.seconds()
        accuracy = self.score(held_out)
        progress.curve.append(
            {
                "step": progress.step,
                "seconds": round(progress.seconds, 1),
                "images": progress.step * self.recipe.batch_size,
                "loss": round(loss, 4),
                "data_wait": round(wait, 3),
                "questions": round(accuracy.questions, 4),
                "accuracy": accuracy.shares(),
            }
        )
        checkpoint.save(
            self.directory,
            self.model,
            self.optimizer,
            {"recipe": asdict(self.recipe), "progress": asdict(progress)},
        )
        with (self.directory / "curve.jsonl").open("w") as file:
            file.writelines(json.dumps(point) + "\n" for point in progress.curve)
        shares = " ".join(f"{kind}={share:.2f}" for kind, share in accuracy.shares().items())
        return (
            f"{self.recipe.model} step {progress.step}/{progress.plan.steps} {progress.seconds:.0f} s "
            f"{meter.images_per_second(self.recipe):.0f} images/s (waiting for data {wait:.0%}) "
            f"loss {loss:.3f} questions {accuracy.questions:.3f} | {shares}"
        )

    def held_out(self, examples: int) -> HeldOut:
        """Return the first `examples` of the validation split, packed."""
        return HeldOut(
            self.packer,
            [world.validation_example(self.recipe.seed, index) for index in range(examples)],
            batch_size=min(self.recipe.batch_size, 128),
        )

    def score(self, held_out: HeldOut) -> Accuracy:
        """Score the current weights."""
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):  # other shapes, no gradients: not worth a compilation
            accuracy = held_out.score(self.logits)
        self.model.train()
        return accuracy


class _Meter:
    """Clocks and averages of one session of a run."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._before = progress.seconds
        self._start = self._reported = time.perf_counter()
        self._settled: tuple[int, float] | None = None
        self._losses: list[Tensor] = []
        self._waited = 0.0
        self._taken = 0

    def waiting_for(self, batches: Iterator[Batch]) -> Batch:
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def add(self, loss: Tensor) -> None:
        self._losses.append(loss)
        self._taken += 1
        if self._taken == LOOK_EVERY:  # past compilation and the workers' first batches
            self._settled = (self.progress.step, time.perf_counter())

    def recent_loss(self) -> float:
        return float(torch.stack(self._losses[-LOOK_EVERY:]).mean()) if self._losses else math.nan

    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    @property
    def steps(self) -> int:
        """Steps since the last report."""
        return len(self._losses)

    def since_report(self) -> float:
        return time.perf_counter() - self._reported

    def steps_per_second(self) -> float:
        if self._settled is None:
            return 0.0
        step, moment = self._settled
        return (self.progress.step - step) / max(time.perf_counter() - moment, 1e-9)

    def images_per_second(self, recipe: Recipe) -> float:
        return self.steps_per_second() * recipe.batch_size

    def report(self) -> tuple[float, float]:
        """Return (mean loss, share of the time spent waiting for data) since the last report; start anew."""
        loss = float(torch.stack(self._losses).mean())
        wait = self._waited / max(self.since_report(), 1e-9)
        self._losses, self._waited, self._reported = [], 0.0, time.perf_counter()
        return loss, wait


def world_tokenizer(examples: int) -> PreTrainedTokenizerFast:
    """Train the testbed's tokenizer on the turns of the first `examples` training examples."""
    turns = itertools.chain.from_iterable(
        world.training_example(TOKENIZER_SEED, index).turns for index in range(examples)
    )
    return train_tokenizer(
        text for turn in turns for text in (f"USER: \n{turn.prompt} ASSISTANT:", f" {turn.answer}")
    )


def stream_hash(seed: int, examples: int = 64) -> str:
    """Return the SHA-256 of the first training examples: their pixels and turns."""
    digest = hashlib.sha256()
    for index in range(examples):
        example = world.training_example(seed, index)
        digest.update(example.image.tobytes())
        digest.update(json.dumps([[t.prompt, t.answer, t.kind] for t in example.turns]).encode())
    return digest.hexdigest()


def _optimizer(model: LlavaForConditionalGeneration, recipe: Recipe) -> torch.optim.AdamW:
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if id(p) in decayed], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
        ],
        lr=recipe.peak_learning_rate,
        betas=(0.9, 0.95),
        fused=parameters[0].is_cuda,
    )


def train(
    recipe: Recipe,
    machine: Machine,
    checkpoint_directory: Path,
    output: Path,
    held_out_examples: int = 1024,
    stop_after: int | None = None,
) -> dict[str, Any] | None:
    """Train, or go on training, a testbed model; save it in half precision with its processor and record.

    Args:
        recipe: what to train.
        machine: on what, and for how long.
        checkpoint_directory: where the run's state is kept; one of the same recipe is continued.
        output: directory of the finished model in Hugging Face format, and of `training.json`.
        held_out_examples: validation images of the final score, each with all its questions.
        stop_after: end after so many steps and leave the rest to a later call.

    Returns:
        The content of `training.json`, or None if the call stopped before the end.

    Raises:
        DyrateError: if the checkpoint belongs to another recipe, or the loss is not a number.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are forks, and each has one core
    if machine.device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    trainer = Trainer(recipe, machine, checkpoint_directory)
    if not trainer.run(stop_after):
        return None
    model = trainer.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())  # the score below is that of the weights on disk
    accuracy = trainer.score(trainer.held_out(held_out_examples))
    record = _record(trainer, accuracy, held_out_examples)
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output, max_shard_size=SHARD_SIZE)
    trainer.processor.save_pretrained(output)
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def _record(trainer: Trainer, accuracy: Accuracy, examples: int) -> dict[str, Any]:
    progress, recipe = trainer.progress, trainer.recipe
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    return {
        "schema": "dyrate.training",
        "version": 1,
        "recipe": asdict(recipe),
        "size": asdict(size_of(recipe.model)),
        "plan": asdict(progress.plan),
        "completed": progress.step == progress.plan.steps,
        "machine": {**asdict(trainer.machine), "hardware": _hardware(trainer.device), "cpus": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": parameters,
        "tokens": len(trainer.tokenizer),
        "seconds": round(progress.seconds, 1),
        "images": progress.step * recipe.batch_size,
        "resumed": progress.resumed,
        "data_sha256": stream_hash(recipe.seed),
        "held_out": {
            "examples": examples,
            "questions": round(accuracy.questions, 4),
            "exact": {kind: list(counts) for kind, counts in accuracy.exact.items()},
            "caption_tokens": list(accuracy.tokens.get(CAPTION_KIND, (0, 0))),
        },
        "curve": progress.curve,
    }


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
