"""`dyrate bench-training`: what a step of a predictor's training takes."""

import argparse
import sys

from dyrate.bench.document import publish
from dyrate.bench.training.job import TrainingBench
from dyrate.jobs import Subparsers, asked
from dyrate.speed.training import TrainingDocument, TrainingRow


def register(subparsers: Subparsers) -> None:
    """Add `dyrate bench-training`; imports nothing heavy."""
    parser = TrainingBench.add_parser(
        subparsers,
        "measure memory and seconds per step of training a predictor",
        "Train a few steps as `dyrate train-predictor` does, on one random batch: seconds per step,\n"
        "memory beside what arithmetic expects, and how many of the predictor's numbers a gradient has\n"
        "reached. With a learned ranking, its training comes first, in a row of its own. The last line is\n"
        "one JSON document.",
        "examples:\n"
        "  dyrate bench-training --model models/testbed-s --prompt 160 --batch 2\n"
        "  dyrate bench-training --shape llava-1.5-7b --dtype bfloat16 --batch 4 8 16 \\\n"
        '    --recipe \'{"ranking": "mlp"}\' --output results/h200/training/7b.json',
    )
    parser.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    import torch

    from dyrate.bench import models
    from dyrate.bench.limits import measure_limits
    from dyrate.bench.training.measure import measure_training
    from dyrate.cost.shapes import ModelShape
    from dyrate.evaluation.checkpoint import choose_device
    from dyrate.evaluation.placement import settled
    from dyrate.predictor_training.recipe import Recipe

    [job] = map(settled, asked(TrainingBench, arguments))
    Recipe.read(job.recipe, "--recipe")
    device, dtype = choose_device(job.device), getattr(torch, job.dtype)
    torch.manual_seed(job.seed)
    model = (
        models.loaded_model(job.model, device, job.dtype)
        if job.model
        else models.random_model(models.named_shape(job.shape or ""), device, dtype)
    )
    limits = measure_limits(device, dtype)
    found: list[TrainingRow] = []
    too_large: list[int] = []
    for answer in job.answer:
        for batch in job.batch:
            try:
                rows = measure_training(model, job, batch, answer, limits)
            except torch.OutOfMemoryError:
                too_large.append(batch)
                sys.stderr.write(f"batch {batch}, answers of {answer}: does not fit into memory\n")
                rows = []
            if device.type == "cuda":
                torch.cuda.empty_cache()
            for row in rows:
                print(_line(row))
            found += rows
    parts = {
        "recipe": job.recipe,
        "shape": asdict(ModelShape.of(model.config)),
        "limits": limits,
        "seed": job.seed,
        "rows": found,
        "too_large": sorted(set(too_large)),
    }
    publish(TrainingDocument, job, device, parts)
    return 0


def _line(row: TrainingRow) -> str:
    memory = [
        f"{size / 2**30:.1f} GiB {what}"
        for size, what in ((row.peak_bytes, "at most"), (row.expected_bytes, "by arithmetic"))
        if size is not None
    ]
    share = [] if row.matrix_share is None else [f"{row.matrix_share:.0%} of the matrix peak"]
    facts = [f"{row.seconds_per_step:.3f} s per step", *share, *memory, f"{row.reached:.0%} reached"]
    return f"{row.part:7}  batch {row.batch}, {row.prompt} + {row.answer} tokens: {', '.join(facts)}"
