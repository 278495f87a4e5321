"""One training job: a model, a recipe and data, into a folder with the predictor and its record."""

import json
import os
import platform
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

from dyrate import files
from dyrate.evaluation import checkpoint, provenance
from dyrate.evaluation.placement import settled
from dyrate.evaluation.prompts import read_template
from dyrate.predictor_training.batch import Encoder
from dyrate.predictor_training.examples import Examples, FileExamples, TestbedExamples
from dyrate.predictor_training.job import Training
from dyrate.predictor_training.recipe import Recipe
from dyrate.predictor_training.teacher_forcing import teacher_forced
from dyrate.predictor_training.trainer import Trainer
from dyrate.predictor_training.validation import validate
from dyrate.predictors import save_predictor
from dyrate.testbed.models.checkpoint import FILE_NAME as CHECKPOINT

RUN_FILE = "predictor.run.json"


def train_predictor(job: Training, stop_after: int | None = None) -> dict[str, Any] | None:
    """Train, or go on training, a predictor; write it, its record, and what the run took.

    `stop_after` ends the call after so many steps, as a kill would. Returns the record, None if it stopped.
    Times and hardware go into `predictor.run.json`; the other files are the same for the same job.
    Raises `DyrateError` for unfit arguments, for a checkpoint of another job in the folder, and where another
    process trains there.
    """
    import torch

    started, job = perf_counter(), settled(job)
    recipe = Recipe.read(job.recipe, "--recipe")
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    device = checkpoint.choose_device(job.device)
    examples: Examples = (
        TestbedExamples(recipe.seed, recipe.caption_share)
        if job.data is None
        else FileExamples(job.data, recipe.seed, recipe.validation_examples, job.limit)
    )
    folder = checkpoint.locate(job.model, job.revision)
    processor, model = checkpoint.load(folder, device, job.dtype, pixels=job.pixels)
    files.make_folder(job.output)
    template = read_template(job.chat_template)
    asked = {  # how, where not as the checkpoint says
        "pixels": job.pixels and [*job.pixels],
        "chat_template": template and sha256(template.encode()).hexdigest(),
    }
    facts = {
        "model": {
            "name": Path(job.model).name,
            "weights": checkpoint.content_hash(folder),
            **({} if (commit := checkpoint.commit_of(folder)) is None else {"revision": commit}),
            "dtype": job.dtype,
            **{name: value for name, value in asked.items() if value is not None},
        },
        "data": examples.description,
    }
    with files.only_one(job.output, "training there"), teacher_forced(model) as frozen:
        encode = Encoder(processor, model, recipe.longest_answer, template)
        trainer = Trainer(recipe, frozen, examples, encode, job.output, facts)
        if not trainer.run(stop_after):
            return None
        validation = validate(frozen, trainer.predictor, recipe, trainer.held_out())
        record = {
            "recipe": recipe.model_dump(mode="json"),
            **facts,
            **validation,
            "parameters": trainer.predictor.parameters_count,
            "curve": trainer.progress.curve,
            "versions": provenance.versions(),
            "commit": provenance.commit(),
        }
        save_predictor(trainer.predictor, job.output, record)
        run = {
            "schema": "dyrate.predictor_run",
            "version": 1,
            "seconds": round(perf_counter() - started, 1),
            "resumed": trainer.progress.resumed,
            "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        }
        files.write_text(job.output / RUN_FILE, json.dumps(run, indent=1) + "\n")
        (job.output / CHECKPOINT).unlink(missing_ok=True)
    return record
