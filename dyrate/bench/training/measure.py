"""A few steps of a predictor's training at a model's real shape, and what each took."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

import torch

from dyrate.bench.limits import synchronise
from dyrate.bench.models import inputs
from dyrate.bench.training.job import TrainingBench
from dyrate.cost.shapes import ModelShape
from dyrate.errors import DyrateError
from dyrate.predictor_training.batch import Batch
from dyrate.predictor_training.examples import Answered
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.teacher_forcing import teacher_forced
from dyrate.predictor_training.trainer import Trainer
from dyrate.speed.documents import Limits
from dyrate.speed.training import TrainingCost, TrainingRow


class _Nothing:
    """Examples that are never looked at: every step gets the same random batch."""

    description: ClassVar[dict[str, Any]] = {"source": "random"}

    def training(self, index: int) -> Answered:
        """Return no example."""
        return None, "", ""

    def validation(self, count: int) -> list[Answered]:
        """Return none."""
        return []


def measure_training(
    model: Any, job: TrainingBench, batch: int, answer: int, limits: Limits
) -> list[TrainingRow]:
    """Train a few steps on one random batch; return a row for each part of the recipe's training.

    The trainer is the one that trains predictors: its forward, gates, backward and optimiser. Raises
    `torch.OutOfMemoryError` where a batch does not fit, and `DyrateError` for an unfit recipe.
    """
    steps = job.warmups + job.steps
    own = {"batch_size": batch, "steps": steps, "ranking_steps": steps, "seed": job.seed}
    recipe = Recipe.read({**job.recipe, **own}, "--recipe")
    asked = inputs(model, batch, job.prompt, job.seed)
    words = asked["input_ids"][asked["input_ids"] != model.config.image_token_id].cpu()
    drawn = torch.randint(len(words), (batch, answer), generator=torch.Generator().manual_seed(job.seed))
    made = Batch.of(asked, words[drawn].tolist(), model.config.image_token_id)
    nothing: Any = _Nothing()
    with tempfile.TemporaryDirectory(prefix="dyrate-training-") as folder, teacher_forced(model) as frozen:

        def encode(_: Sequence[Answered]) -> Batch:
            return made

        trainer = Trainer(recipe, frozen, nothing, encode, Path(folder), {})
        return [
            _part(trainer, part, job, answer, ModelShape.of(model.config), limits)
            for part in (("ranking", "rate") if recipe.learns_ranking else ("rate",))
        ]


def _part(
    trainer: Trainer, part: Any, job: TrainingBench, answer: int, shape: ModelShape, limits: Limits
) -> TrainingRow:
    recipe, device = trainer.recipe, trainer.frozen.device
    seconds = []
    for step in range(job.warmups + job.steps):
        if step == job.warmups and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        synchronise(device)
        started = perf_counter()
        trainer.run(stop_after=1)
        synchronise(device)
        if step >= job.warmups:
            seconds.append(perf_counter() - started)
    taken = median(seconds)
    expected: dict[str, Any] = {"expected_bytes": None, "expected_flops": None, "matrix_share": None}
    if part == "rate":
        size = torch.finfo(getattr(torch, job.dtype)).bits // 8
        tokens = job.prompt + answer - 1
        cost = TrainingCost.of(shape, recipe.layer, recipe.batch_size, tokens, size)
        expected = {
            "expected_bytes": cost.weights + cost.kept,
            "expected_flops": cost.flops,
            "matrix_share": cost.flops / taken / limits.flops_per_second,
        }
    return TrainingRow(
        part=part,
        batch=recipe.batch_size,
        prompt=job.prompt,
        answer=answer,
        seconds=tuple(seconds),
        seconds_per_step=taken,
        reached=_reached(trainer, part),
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        **expected,
    )


def _reached(trainer: Trainer, part: str) -> float:
    """The share of a part's numbers whose squared gradients, as the optimiser averages them, are above 0.

    Raises `DyrateError` where one is not finite.
    """
    moments = [
        trainer.optimizer.state[parameter]["exp_avg_sq"]
        for name, parameter in trainer.predictor.named_parameters()
        if name.startswith("rate.") == (part == "rate")
    ]
    numbers = torch.cat([moment.flatten() for moment in moments])
    if not numbers.isfinite().all():
        raise DyrateError(f"a gradient of the {part} is not finite")
    return float((numbers > 0).float().mean())
