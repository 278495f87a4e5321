"""Answers a part of the batches of evaluations: several processes, on as many GPUs, share a large benchmark.

The batches are those that one process would make, and an answer is found by its batch's content, so that the
result is the same to the last byte whoever gave it.
"""

import re
from collections.abc import Iterator, Sequence

from dyrate.errors import DyrateError
from dyrate.evaluation.evaluate import setting_of
from dyrate.evaluation.harness import ask
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.sweep import loaded_model, loaded_tasks
from dyrate.files import make_folder


def batches_of(part: str) -> slice:
    """Which batches a part "K/N" is: every N-th from the K-th on; a `DyrateError` for what is none."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", part)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise DyrateError(f"--part {part}: should be K/N with K from 1 to N, such as 2/8")
    return slice(number - 1, None, count)


def answer(jobs: Sequence[Evaluation], part: str) -> Iterator[tuple[str, Exception]]:
    """Answer the part of every job on one loaded model, each benchmark into a log of its own.

    Yields what could not be answered, by result and benchmark, and the error. Raises as `sweep` does before.
    """
    batches = batches_of(part)
    model, tasks_of = loaded_model(jobs), loaded_tasks()
    for job in jobs:
        tasks, unloaded = tasks_of(job)
        for name, error in unloaded.items():
            yield f"{job.files.result}: {name}", error
        for loaded in tasks:
            try:
                setting = setting_of(job)
                setting.log = job.files.log_of(loaded.benchmark.name, part)
                logs = [job.files.log, *job.files.logs_of_parts]  # of a run before, with other parts or none
                setting.others = [path for path in logs if path.exists() and path != setting.log]
                make_folder(setting.log.parent)
                setting.batches = batches
                model.use(setting)
                ask(model, loaded)
            except Exception as error:  # noqa: BLE001 - as in `sweep`: it is told, and others are answered
                yield f"{job.files.result}: {loaded.benchmark.name}", error
        model.release()
