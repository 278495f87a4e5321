"""Trains a testbed model from nothing: the optimiser, the loop, and what is saved at the end."""

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.testbed.models import checkpoint
from dyrate.testbed.models.architecture import build_model, build_processor, size_of
from dyrate.testbed.models.held_out import Accuracy, HeldOut
from dyrate.testbed.models.packing import PackedBatch, Packer, normalise, packed_logits, packed_loss
from dyrate.testbed.models.progress import LOOK_EVERY, Meter, TrainingProgress
from dyrate.testbed.models.recipe import DECAY_SHARE, Machine, ModelRecipe
from dyrate.testbed.models.record import training_record
from dyrate.testbed.models.schedule import LearningRatePlan
from dyrate.testbed.models.stream import TrainingStream, world_tokenizer
from dyrate.testbed.world.examples import validation_example

SHARD_SIZE = "14MB"


class ModelTrainer:
    """A model in training: weights, optimiser, data and progress."""

    def __init__(self, recipe: ModelRecipe, machine: Machine, checkpoint_directory: Path) -> None:
        size = size_of(recipe.model)
        self.recipe, self.machine, self.directory = recipe, machine, checkpoint_directory
        self.device = torch.device(machine.device)
        self.tokenizer = world_tokenizer(recipe.tokenizer_examples)
        self.processor: LlavaProcessor = build_processor(self.tokenizer)
        self.packer = Packer(self.tokenizer, recipe.pack_length)
        self.model = build_model(size, self.tokenizer, recipe.seed).to(self.device)
        self.optimizer = _optimizer(self.model, recipe)
        self.progress = TrainingProgress(LearningRatePlan(recipe.steps - recipe.decay_steps, recipe.steps))
        self._mean = torch.tensor(self.processor.image_processor.image_mean, device=self.device)
        self._std = torch.tensor(self.processor.image_processor.image_std, device=self.device)
        self._resume()
        if machine.compile:
            # Layer by layer: all layers of one kind share one compilation, which takes seconds, not minutes.
            for module in self.model.modules():
                if isinstance(module, (CLIPEncoderLayer, LlamaDecoderLayer)):
                    module.compile()

    def _resume(self) -> None:
        state = checkpoint.load(self.directory)
        if state is None:
            return
        saved, tensors = state
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
        self.progress = TrainingProgress.from_json(saved["progress"])
        self.progress.resumed += 1

    def logits(self, batch: PackedBatch) -> Tensor:
        """Return the logits, [B, S, vocabulary], of a packed batch that may lie on another device."""
        batch = batch.to(self.device)
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext():
            return packed_logits(self.model, batch, normalise(batch.images, self._mean, self._std))

    def advance(self, batch: PackedBatch) -> Tensor:
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
        meter = Meter(progress)
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
                        images_s=f"{meter.images_per_second(self.recipe.batch_size):.0f}",
                    )
                    if meter.since_report() > self.machine.report_seconds:
                        tqdm.write(self._report(meter, held_out))
            if meter.steps:
                tqdm.write(self._report(meter, held_out))
        return progress.step == progress.plan.steps or self._late()

    def _batches(self) -> Iterator[PackedBatch]:
        steps = range(self.progress.step, self.recipe.steps)
        stream = TrainingStream(self.packer, self.recipe.seed, self.recipe.batch_size)
        loader: DataLoader[PackedBatch] = DataLoader(
            stream,
            batch_size=None,
            sampler=steps,
            num_workers=self.machine.workers,
            pin_memory=self.device.type == "cuda",
        )
        return iter(loader)

    def _keep_time(self, meter: Meter) -> None:
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

    def _report(self, meter: Meter, held_out: HeldOut) -> str:
        """Append to the curve, write a checkpoint, and return one line for people."""
        progress = self.progress
        loss, wait = meter.report()
        if not math.isfinite(loss):
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
        curve = "".join(json.dumps(point) + "\n" for point in progress.curve)
        files.write_text(self.directory / "curve.jsonl", curve)
        shares = " ".join(f"{kind}={share:.2f}" for kind, share in accuracy.shares().items())
        return (
            f"{self.recipe.model} step {progress.step}/{progress.plan.steps} {progress.seconds:.0f} s "
            f"{meter.images_per_second(self.recipe.batch_size):.0f} images/s (waiting for data {wait:.0%}) "
            f"loss {loss:.3f} questions {accuracy.questions:.3f} | {shares}"
        )

    def held_out(self, examples: int) -> HeldOut:
        """Return the first `examples` of the validation split, packed."""
        return HeldOut(
            self.packer,
            [validation_example(self.recipe.seed, index) for index in range(examples)],
            batch_size=min(self.recipe.batch_size, 128),
        )

    def score(self, held_out: HeldOut) -> Accuracy:
        """Score the current weights."""
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):  # other shapes, no gradients: not worth a compilation
            accuracy = held_out.score(self.logits)
        self.model.train()
        return accuracy


def _optimizer(model: LlavaForConditionalGeneration, recipe: ModelRecipe) -> torch.optim.AdamW:
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
    trainer = ModelTrainer(recipe, machine, checkpoint_directory)
    if not trainer.run(stop_after):
        return None
    model = trainer.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())  # the score below is that of the weights on disk
    held_out = trainer.held_out(held_out_examples)
    accuracy = trainer.score(held_out)
    record = training_record(
        recipe, machine, trainer.progress, model, len(trainer.tokenizer), held_out, accuracy
    )
    output.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(output, max_shard_size=SHARD_SIZE)
    trainer.processor.save_pretrained(output)
    files.write_text(output / "training.json", json.dumps(record, indent=1) + "\n")
    return record
