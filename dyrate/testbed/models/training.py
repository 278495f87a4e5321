"""Trains a testbed model from nothing: the optimiser, the loop, and what is saved at the end."""

import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.testbed.models import checkpoint
from dyrate.testbed.models.architecture import MergedSize, size_of
from dyrate.testbed.models.held_out import HeldOut
from dyrate.testbed.models.packing import PackedBatch
from dyrate.testbed.models.progress import LOOK_EVERY, Meter, TrainingProgress
from dyrate.testbed.models.qwen_task import MergedTask
from dyrate.testbed.models.recipe import DECAY_SHARE, Machine, ModelRecipe
from dyrate.testbed.models.record import training_record
from dyrate.testbed.models.schedule import LearningRatePlan
from dyrate.testbed.models.task import Task


class ModelTrainer:
    """A model in training: what it is trained for, its optimiser and its progress."""

    def __init__(self, task: Task, machine: Machine, checkpoint_directory: Path) -> None:
        self.task, self.machine, self.directory = task, machine, checkpoint_directory
        self.recipe = recipe = task.recipe
        self.optimizer = _optimizer(task)
        self.progress = TrainingProgress(LearningRatePlan(recipe.steps - recipe.decay_steps, recipe.steps))
        self._resume()
        if machine.compile:
            task.compile()

    def _resume(self) -> None:
        state = checkpoint.load(self.directory)
        if state is None:
            return
        saved, tensors = state
        there = saved["recipe"]
        changes = [
            f"{key}: {there.get(key)!r} there, {value!r} now"
            for key, value in asdict(self.recipe).items()
            if there.get(key) != value
        ]
        if changes:
            raise DyrateError(
                f"the checkpoint in {self.directory} belongs to another recipe ({', '.join(changes)}); "
                "name another --checkpoint, or remove it to start anew"
            )
        checkpoint.restore(self.task.parts, self.optimizer, tensors)
        self.progress = TrainingProgress.from_json(saved["progress"])
        self.progress.resumed += 1

    def advance(self, batch: PackedBatch) -> Tensor:
        """Take one optimiser step; return the loss, a scalar still on the device."""
        rate = self.progress.plan.learning_rate(
            self.progress.step, self.recipe.peak_learning_rate, self.recipe.warmup_steps
        )
        stage = self.recipe.stage(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (stage.eyes if group["eyes"] else stage.rest)
        loss = self.task.loss(batch, stage)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.task.parts.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.task.settle()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        return loss.detach()

    def run(self, stop_after: int | None = None) -> bool:
        """Train to the end of the plan or of the time, or for `stop_after` steps; leaves a checkpoint behind.

        Returns:
            Whether the training is over.
        """
        progress = self.progress
        held_out = self.task.held_out(256)
        meter = Meter(progress)
        last = None if stop_after is None else progress.step + stop_after
        batches = iter(
            DataLoader(
                self.task.stream,
                batch_size=None,
                sampler=range(progress.step, self.recipe.steps),
                num_workers=self.machine.workers,
                pin_memory=self.task.device.type == "cuda",
            )
        )
        interval = 0.5 if sys.stderr.isatty() else 20.0
        self.task.parts.train()
        with tqdm(total=progress.plan.steps, initial=progress.step, unit="step", mininterval=interval) as bar:
            while progress.step < progress.plan.steps and progress.step != last and not self._late():
                meter.add(self.advance(meter.waiting_for(batches)))
                bar.update()
                if progress.step % LOOK_EVERY == 0:
                    self._keep_time(meter)
                    bar.total = progress.plan.steps
                    bar.set_postfix(
                        loss=f"{meter.recent_loss():.3f}",
                        lr=f"{self.optimizer.param_groups[-1]['lr']:.1e}",
                        images_s=f"{meter.steps_per_second() * self.recipe.batch_size:.0f}",
                    )
                    if meter.since_report() > self.machine.report_seconds:
                        tqdm.write(self._report(meter, held_out))
            if meter.losses:
                tqdm.write(self._report(meter, held_out))
        return progress.step == progress.plan.steps or self._late()

    def _keep_time(self, meter: Meter) -> None:
        progress, minutes, speed = self.progress, self.machine.minutes, meter.steps_per_second()
        progress.seconds = meter.seconds()
        if minutes is not None and speed > 0:
            progress.plan = progress.plan.within(
                progress.step, progress.seconds, minutes * 60, speed, DECAY_SHARE
            )

    def _late(self) -> bool:
        """Whether the time is up by more than the plan's own error, as when the machine has become slower."""
        return self.machine.minutes is not None and self.progress.seconds > 1.05 * 60 * self.machine.minutes

    def _report(self, meter: Meter, held_out: HeldOut) -> str:
        """Append to the curve, write a checkpoint, and return one line for people."""
        progress = self.progress
        loss, wait = meter.report()
        if not math.isfinite(loss):
            raise DyrateError(
                f"the loss is not a number at step {progress.step}; the last checkpoint is kept"
            )
        progress.seconds = meter.seconds()
        accuracy, retrieval = self.task.score(held_out), self.task.retrieval(held_out)
        progress.curve.append(
            {
                "step": progress.step,
                "seconds": round(progress.seconds, 1),
                "images": progress.step * self.recipe.batch_size,
                "loss": round(loss, 4),
                "data_wait": round(wait, 3),
                **accuracy.summary(),
                "retrieval": asdict(retrieval),
            }
        )
        saved = {"recipe": asdict(self.recipe), "progress": asdict(progress)}
        checkpoint.save(self.directory, self.task.parts, self.optimizer, saved)
        curve = "".join(json.dumps(point) + "\n" for point in progress.curve)
        files.write_text(self.directory / "curve.jsonl", curve)
        return (
            f"{self.recipe.model} step {progress.step}/{progress.plan.steps} {progress.seconds:.0f} s "
            f"{meter.steps_per_second() * self.recipe.batch_size:.0f} images/s (waiting for data {wait:.0%}) "
            f"loss {loss:.3f} {accuracy} | {retrieval}"
        )


def _optimizer(task: Task) -> torch.optim.AdamW:
    """Return the optimiser, in groups by learning rate (`eyes` or not) and weight decay (matrices alone)."""
    decayed = {module.weight for module in task.parts.modules() if isinstance(module, nn.Linear)}
    eyes, parameters = set(task.eyes()), list(task.parts.parameters())
    return torch.optim.AdamW(
        [
            {
                "params": [p for p in parameters if (p in eyes, p in decayed) == (seeing, decays)],
                "weight_decay": task.recipe.weight_decay if decays else 0.0,
                "eyes": seeing,
            }
            for seeing in (True, False)
            for decays in (True, False)
        ],
        lr=task.recipe.peak_learning_rate,
        betas=(0.9, 0.95),
        fused=parameters[0].is_cuda,
    )


def train(
    recipe: ModelRecipe,
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
    kind = MergedTask if isinstance(size_of(recipe.model), MergedSize) else Task
    task = kind(recipe, torch.device(machine.device))
    trainer = ModelTrainer(task, machine, checkpoint_directory)
    if not trainer.run(stop_after):
        return None
    with torch.no_grad():
        for parameter in task.parts.parameters():
            parameter.copy_(parameter.half())  # the score below is that of the weights on disk
    held_out = task.held_out(held_out_examples)
    record = training_record(task, machine, trainer.progress, held_out)
    task.save(output)
    files.write_text(output / "training.json", json.dumps(record, indent=1) + "\n")
    return record
