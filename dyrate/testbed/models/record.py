"""The record of a finished training run, kept beside the weights as `training.json`."""

import os
import platform
from dataclasses import asdict
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from dyrate.testbed.models.architecture import size_of
from dyrate.testbed.models.held_out import CAPTION_KIND, Accuracy, HeldOut
from dyrate.testbed.models.progress import TrainingProgress
from dyrate.testbed.models.recipe import Machine, ModelRecipe
from dyrate.testbed.models.stream import stream_hash


def training_record(
    recipe: ModelRecipe,
    machine: Machine,
    progress: TrainingProgress,
    model: PreTrainedModel,
    tokens: int,
    held_out: HeldOut,
    accuracy: Accuracy,
) -> dict[str, Any]:
    """Return the content of `training.json`: what was trained, how, on what, and what came of it."""
    return {
        "schema": "dyrate.training",
        "version": 1,
        "recipe": asdict(recipe),
        "size": asdict(size_of(recipe.model)),
        "plan": asdict(progress.plan),
        "completed": progress.step == progress.plan.steps,
        "machine": asdict(machine) | {"hardware": _hardware(model.device), "cpus": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": model.num_parameters(),
        "tokens": tokens,
        "seconds": round(progress.seconds, 1),
        "images": progress.step * recipe.batch_size,
        "resumed": progress.resumed,
        "data_sha256": stream_hash(recipe.seed),
        "held_out": {
            "examples": held_out.examples,
            "questions": round(accuracy.questions, 4),
            "exact": {kind: list(counts) for kind, counts in accuracy.exact.items()},
            "caption_tokens": list(accuracy.tokens.get(CAPTION_KIND, (0, 0))),
        },
        "curve": progress.curve,
    }


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
