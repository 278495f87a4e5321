"""What `dyrate bench-training` is asked: a few steps of which recipe, on what model, with how much memory."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from dyrate.bench.job import PROMPT, Checkpoint, Document, Numbers, Shape
from dyrate.evaluation.job import Device
from dyrate.jobs import Job, option
from dyrate.predictor_training.job import TrainingDtype, recipe_values
from dyrate.typed import Natural, Positive

_DEFAULT: dict[str, Any] = {}


class TrainingBench(Job):
    """What to measure; `dyrate bench-training`'s options."""

    command_name = "bench-training"
    one_of = ("model", "shape")

    model: Checkpoint = None
    shape: Shape = None
    recipe: Annotated[dict[str, Any], BeforeValidator(recipe_values), option("what", "JSON")] = _DEFAULT
    """as of `dyrate train-predictor`; --steps and --batch replace its steps and batch_size"""
    batch: Annotated[Numbers, option("what", "N")] = (8,)
    """answers per step; those that do not fit are named in the document"""
    prompt: Annotated[Positive, option("what", "N")] = PROMPT
    """tokens of a prompt, the visual ones among them"""
    answer: Annotated[Numbers, option("what", "N")] = (32,)
    """tokens of each answer"""
    steps: Annotated[Positive, option("how", "N")] = 5
    """that are measured, of each part"""
    warmups: Annotated[Natural, option("how", "N")] = 2
    """steps before them"""
    device: Device = "auto"
    dtype: TrainingDtype = "auto"
    seed: Annotated[int, option("how", "S")] = 0
    """of weights, words, images and answers"""
    output: Document = None
