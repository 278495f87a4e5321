"""The record of a finished training run, kept beside the weights as `training.json`."""

import os
import platform
from dataclasses import asdict
from typing import Any

import torch
import transformers

from dyrate.testbed.models.architecture import size_of
from dyrate.testbed.models.held_out import HeldOut
from dyrate.testbed.models.progress import TrainingProgress
from dyrate.testbed.models.recipe import Machine
from dyrate.testbed.models.stream import stream_hash
from dyrate.testbed.models.task import Task


def training_record(
    task: Task, machine: Machine, progress: TrainingProgress, held_out: HeldOut
) -> dict[str, Any]:
    """Return the content of `training.json`: what was trained, how, on what, and what came of it."""
    recipe, device, accuracy = task.recipe, task.device, task.score(held_out)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    return {
        "schema": "dyrate.training",
        "version": 2,
        "recipe": asdict(recipe),
        "size": asdict(size_of(recipe.model)),
        "plan": asdict(progress.plan),
        "completed": progress.step == progress.plan.steps,
        "machine": asdict(machine) | {"hardware": hardware, "cpus": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": task.model.num_parameters(),
        "clip_parameters": task.clip.num_parameters(),
        "tokens": len(task.tokenizer),
        "seconds": round(progress.seconds, 1),
        "images": progress.step * recipe.batch_size,
        "resumed": progress.resumed,
        "data_sha256": stream_hash(recipe.seed),
        "held_out": {
            "examples": held_out.examples,
            "questions": round(accuracy.questions, 4),
            "exact": {kind: list(counts) for kind, counts in accuracy.exact.items()},
            "caption_tokens": list(accuracy.caption_tokens),
            "retrieval": asdict(task.retrieval(held_out)),
        },
        "curve": progress.curve,
    }
