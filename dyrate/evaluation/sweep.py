"""Several evaluations in one process: the model is loaded once, the tasks where they change.

On a CPU, what methods compute alike on a batch is computed once.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import Cut, select
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.evaluate import (
    Clock,
    evaluate_loaded,
    load,
    load_system,
    read_baseline,
    setting_of,
)
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.results import Result
from dyrate.files import make_folder
from dyrate.jobs import flag
from dyrate.registry import built_in, load_method

if TYPE_CHECKING:
    from dyrate.evaluation.answering import Answering
    from dyrate.evaluation.setting import Setting

SHARED = (
    "model",
    "revision",
    "chat_template",
    "pixels",
    "adapter",
    "device",
    "dtype",
    "engine",
    "device_map",
    "bits",
    "batch_size",
    "threads",
)
"""What the loaded model is bound to."""


def sweep(jobs: Sequence[Evaluation], started: float | None = None) -> Iterator[Result | Exception]:
    """Run the jobs in their order on one loaded model; yield for each its result, or the error that ended it.

    Each result is that of a process of its own, byte for byte. A job that fails takes no other with it, but
    those that it should have made the baseline of; neither does a benchmark (`evaluate_loaded`). `started` is
    `perf_counter()` at the start of the process: the first job's wall time counts from there, the others'
    from the end of the one before.

    Raises `DyrateError` before anything slow for unfit arguments of any of the jobs, and for jobs that cannot
    share a process; and where the model cannot be loaded.
    """
    clock = Clock(perf_counter() if started is None else started)
    model, tasks_of = loaded_model(jobs), loaded_tasks()
    failed: set[Path] = set()
    settings = [_prepared(job) for job in jobs]
    for place, job in enumerate(jobs):
        clock.lap("load")
        try:
            if job.baseline is not None and job.baseline.resolve() in failed:
                raise DyrateError(f"--baseline {job.baseline}: the evaluation that makes it failed")  # noqa: TRY301
            tasks, unloaded = tasks_of(job)
            clock.lap("tasks")
            setting = settings[place]
            if isinstance(setting, Exception):
                raise setting  # noqa: TRY301
            alone = job.adapter is not None or model.device.type != "cpu"
            others = [] if alone else _companions(jobs, settings, place, tasks)
            result = evaluate_loaded(job, model, tasks, clock, setting, others, unloaded)
            outcome: Result | Exception = result
            if "failed" in result:
                failed.add(job.files.result.resolve())
        except Exception as error:  # noqa: BLE001 - in processes of their own, the others would go on as well
            failed.add(job.files.result.resolve())
            outcome = error
        yield outcome
        clock = Clock(perf_counter())
        model.release()


def loaded_model(jobs: Sequence[Evaluation]) -> "Answering":
    """Load the model that all jobs are about.

    Raises `DyrateError` before anything slow for unfit arguments of any of the jobs, and for jobs that cannot
    share a process.
    """
    _check(jobs)
    return load(jobs[0]) if jobs[0].adapter is None else load_system(jobs[0])


def loaded_tasks() -> Callable[[Evaluation], tuple[list[LoadedTask], dict[str, Exception]]]:
    """What returns the tasks of a job's benchmarks, and what is wrong with those that do not load.

    Jobs alike that follow each other share them.
    """
    tasks_of = lru_cache(maxsize=1)(_tasks)
    return lambda job: tasks_of(job.benchmarks, job.tasks, job.data, job.cuts, job.metrics == "primary")


def _tasks(
    benchmarks: tuple[str, ...], source: str, data: Path | None, cuts: tuple[Cut, ...], primary_only: bool
) -> tuple[list[LoadedTask], dict[str, Exception]]:
    """The benchmarks' tasks, and what is wrong with those that do not load."""
    failed: dict[str, Exception] = {}
    return load_tasks(select(benchmarks), source, data, cuts, primary_only, failed), failed


def _prepared(job: Evaluation) -> "Setting | Exception":
    """What a job answers with, or what keeps it from answering, which is told in its turn."""
    try:
        return setting_of(job)
    except Exception as error:  # noqa: BLE001 - as in `sweep`
        return error


def _companions(
    jobs: Sequence[Evaluation],
    settings: "Sequence[Setting | Exception]",
    place: int,
    tasks: Sequence[LoadedTask],
) -> "list[Setting]":
    """The settings of jobs behind the one at `place` that are asked some of its questions as well.

    A method from elsewhere may look into parts of the model that would not run, so it answers alone.
    """
    job, found = jobs[place], []
    if job.method["name"] not in built_in():
        return []
    for other, setting in zip(jobs[place + 1 :], settings[place + 1 :], strict=True):
        if isinstance(setting, Exception):
            continue
        alike = (other.tasks, other.data, other.samples, other.subsets) == (
            job.tasks,
            job.data,
            job.samples,
            job.subsets,
        )
        setting.tasks = {loaded.name for loaded in tasks if loaded.benchmark.name in other.benchmarks}
        if alike and setting.tasks and other.method["name"] in built_in():
            found.append(setting)
    return found


def _check(jobs: Sequence[Evaluation]) -> None:
    """Refuse what can be known to be wrong of any job before the model is loaded, and make the folders."""
    made: set[Path] = set()
    for job in jobs:
        for option in SHARED:
            first, other = getattr(jobs[0], option), getattr(job, option)
            if other != first:
                raise DyrateError(
                    f"{flag(option)}: {other!r} after {first!r}, but one process has one loaded model"
                )
        decoding_spec(job.decoding)
        load_method(job.method)
        result = job.files.result.resolve()
        if result in made:
            raise DyrateError(f"two evaluations would write {job.files.result}")
        make_folder(job.output)
        if job.baseline is not None and job.baseline.resolve() not in made:
            read_baseline(job, job.baseline)  # else when its turn comes
        made.add(result)
