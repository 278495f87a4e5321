"""Trains several connectors on the same batches: the loop, its checkpoints, and what is saved at the end."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dyrate.connectors.folder import TrainedConnector, save_connector, save_variant
from dyrate.errors import DyrateError
from dyrate.evaluation import checkpoint
from dyrate.evaluation.provenance import commit, versions
from dyrate.testbed.connectors.recipe import ConnectorRecipe
from dyrate.testbed.connectors.student import Student
from dyrate.testbed.models import checkpoint as progress_file
from dyrate.testbed.models.held_out import HeldOut
from dyrate.testbed.models.packing import PackedBatch, Packer, normalise
from dyrate.testbed.models.stream import TrainingStream
from dyrate.testbed.world.examples import validation_example

KEEP_EVERY = 200  # steps between checkpoints
LOOK_EVERY = 20  # steps between looks at the losses, which wait for the device
SHARED = "batch_size", "pack_length", "seed", "steps", "precision"
"""Of a recipe, what all that learn from the same batches have in common."""


class Lesson:
    """What all students see: the frozen model's tower on one stream of examples."""

    def __init__(self, folder: Path, recipe: ConnectorRecipe, device: str) -> None:
        self.recipe = recipe
        self.device = checkpoint.choose_device(device)
        self.base = checkpoint.content_hash(folder)
        self.processor, self.model = checkpoint.load(folder, self.device, "float32")
        self.model.requires_grad_(False)
        tokenizer = self.processor.tokenizer
        self.packer = Packer(tokenizer, recipe.pack_length)
        self.stream = TrainingStream(self.packer, recipe.seed, recipe.batch_size, least_spacing=1.0)
        images = self.processor.image_processor
        self._mean = torch.tensor(images.image_mean, device=self.device)
        self._std = torch.tensor(images.image_std, device=self.device)
        before, after = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\n", " ASSISTANT:")
        )
        self.ends = len(before), len(after)

    @torch.no_grad()
    def see(self, batch: PackedBatch) -> Sequence[Tensor]:
        """Return the tower's hidden states, [rows, 1 + patches, width] each."""
        tower = self.model.model.vision_tower
        pixels = normalise(batch.images, self._mean, self._std)
        states: Sequence[Tensor] = tower(pixels, output_hidden_states=True).hidden_states
        return states


def train(
    folder: Path,
    recipes: Mapping[str, ConnectorRecipe],
    output: Path,
    checkpoints: Path,
    device: str = "cuda",
    workers: int = 0,
    held_out_examples: int = 512,
    stop_after: int | None = None,
) -> dict[str, dict[str, Any]] | None:
    """Train connectors, or go on training them; save each in its own folder, `output / name`.

    Args:
        folder: the testbed model to train on.
        recipes: by the names of their folders; all of one batch size, length, seed and number of steps.
        output: where the folders are made.
        checkpoints: where the run's state is kept; one of the same recipes is continued.
        device: as torch names it.
        workers: processes that make data.
        held_out_examples: validation images of the final score, each with all its questions.
        stop_after: end after so many steps and leave the rest to a later call.

    Returns:
        By name what `connector.json` says of the training, or None if the call stopped before the end.

    Raises:
        DyrateError: for recipes that cannot share batches, for a checkpoint of other recipes, and where a
            loss is not a number.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are forks, and each has one core
    first = next(iter(recipes.values()))
    for name, recipe in recipes.items():
        for key in SHARED:
            if getattr(recipe, key) != getattr(first, key):
                raise DyrateError(
                    f"{name}: {key} is {getattr(recipe, key)}, and {getattr(first, key)} of the first; "
                    "connectors that are trained together share their batches"
                )
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
    lesson = Lesson(folder, first, device)
    held_out = HeldOut(
        lesson.packer, [validation_example(first.seed, i) for i in range(held_out_examples)], 128
    )
    students = {name: Student(recipe, lesson.model, lesson.ends) for name, recipe in recipes.items()}
    start, seconds = _resume(students, checkpoints)
    last = first.steps if stop_after is None else min(first.steps, start + stop_after)
    batches = iter(DataLoader(lesson.stream, None, sampler=range(start, last), num_workers=workers))
    losses: dict[str, Tensor] = {}
    with tqdm(total=first.steps, initial=start, unit="step", mininterval=5) as bar:
        for step in range(start, last):
            began = time.perf_counter()
            batch = next(batches).to(lesson.device)
            states = lesson.see(batch)
            losses = {name: one.learn(batch, states, step) for name, one in students.items()}
            if step % LOOK_EVERY == 0 or step == last - 1:
                shown = {name: float(loss) for name, loss in losses.items()}
                if wrong := [name for name, loss in shown.items() if not math.isfinite(loss)]:
                    raise DyrateError(f"{', '.join(wrong)}: the loss is not a number at step {step}")
                bar.set_postfix({name: f"{loss:.2f}" for name, loss in shown.items()})
            seconds += time.perf_counter() - began
            bar.update()
            if step % KEEP_EVERY == KEEP_EVERY - 1:
                _keep(students, checkpoints, step + 1, seconds)
    _keep(students, checkpoints, last, seconds)
    if last < first.steps:
        return None
    found = {}
    for name, student in students.items():
        trained = _trained(student)
        training = {
            "recipe": {
                key: value
                for key, value in asdict(student.recipe).items()
                if key not in ("connector", "fields")
            },
            "loss": round(float(losses[name]), 4) if losses else None,
            "seconds": round(seconds, 1),
            "together": len(students),
            "parameters": {
                "connector": sum(part.numel() for part in student.connector.parameters()),
                "adapter": sum(part.numel() for part in student.adapter),
            },
            "held_out": _scores(student, lesson, held_out),
            "versions": versions(),
            "commit": commit(),
            "device": torch.cuda.get_device_name() if lesson.device.type == "cuda" else "cpu",
        }
        save_connector(trained, output / name, folder, lesson.base, training)
        for kernel in getattr(trained.connector, "kernels", ()):
            if kernel > 1:
                side = trained.connector.sizes.side // kernel
                save_variant(output / f"{name}-{side**2}", output / name, {"kernel": kernel})
        found[name] = training
    return found


def _trained(student: Student) -> TrainedConnector:
    """Round a student to half precision, in which it is saved, and return what it has learned."""
    with torch.no_grad():
        for part in [*student.connector.parameters(), *student.adapter]:
            part.copy_(part.half())
    adapter = {}
    for name, part in student.model.named_parameters():
        if part.requires_grad:
            layer, _, which = name.partition(".lora_")
            adapter[f"{layer.removeprefix('base_model.model.model.language_model.')}.{which[0]}"] = (
                part.detach().cpu()
            )
    if len(student.scales) > 1:
        student.connector.kernel = 1  # type: ignore[assignment]
    return TrainedConnector(student.connector.eval(), adapter, 2.0)


def _scores(student: Student, lesson: Lesson, held_out: HeldOut) -> dict[str, Any]:
    """Return the share of right answers to held-out questions, by scale where there are several."""
    student.parts.eval()

    def score(scale: int) -> dict[str, Any]:
        def logits(batch: PackedBatch) -> Tensor:
            moved = batch.to(lesson.device)
            made, found = student.logits(moved, lesson.see(moved), scale)
            # Where the batch has its patches' places, nothing is asked.
            more = batch.input_ids.shape[1] - made.input_ids.shape[1]
            return (
                found[:, -more:] if more < 0 else torch.cat([found[:, :1].expand(-1, more, -1), found], dim=1)
            )

        return held_out.score(logits).summary()

    found = {}
    for scale in student.scales:
        summary = score(scale)
        found[str(student.connector.tokens)] = summary
    return found


def _resume(students: Mapping[str, Student], checkpoints: Path) -> tuple[int, float]:
    """Put every student back to where its checkpoint was written; return the step and the seconds so far."""
    found: set[tuple[int, float]] = set()
    for name, student in students.items():
        state = progress_file.load(checkpoints / name)
        if state is None:
            found.add((0, 0.0))
            continue
        saved, tensors = state
        if saved["recipe"] != json.loads(json.dumps(asdict(student.recipe))):
            raise DyrateError(
                f"the checkpoint in {checkpoints / name} belongs to another recipe; name another "
                "--checkpoint, or remove it to start anew"
            )
        progress_file.restore(student.parts, student.optimizer, tensors)
        found.add((saved["step"], saved["seconds"]))
    if len(found) > 1:
        steps = ", ".join(str(step) for step, _ in sorted(found))
        raise DyrateError(
            f"the checkpoints in {checkpoints} are of different steps: {steps}; remove them to start anew"
        )
    return found.pop()


def _keep(students: Mapping[str, Student], checkpoints: Path, step: int, seconds: float) -> None:
    for name, student in students.items():
        saved = {"recipe": asdict(student.recipe), "step": step, "seconds": seconds}
        progress_file.save(checkpoints / name, student.parts, student.optimizer, saved)
