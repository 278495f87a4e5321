"""One evaluation job: a model, a method and a decoding strategy on some benchmarks, into result files."""

import os
import platform
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from loguru import logger

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.evaluation import answers, provenance, results
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.harness import Answered, run_harness, scored
from dyrate.evaluation.harness_tasks import LoadedTask
from dyrate.evaluation.intervals import LEVEL, RESAMPLES
from dyrate.evaluation.job import Asked, Evaluation, told_bounds
from dyrate.evaluation.placement import settled
from dyrate.evaluation.results import BenchmarkResult, ResultFiles
from dyrate.evaluation.scoring import Sample, differences
from dyrate.evaluation.visual_tokens import means_and_work

if TYPE_CHECKING:
    from dyrate.evaluation.adapter import DyrateModel
    from dyrate.evaluation.answering import Answering
    from dyrate.evaluation.setting import Setting


def read_baseline(job: Evaluation, path: Path) -> tuple[results.Result, Mapping[str, Sequence[Sample]]]:
    """Read a baseline and its samples; refuse one of another model, decoding or benchmarks.

    That is what can be known without the model.
    """
    result = results.read(path)
    settings = (
        ("method", {"name": "none"}, result["method"]),
        ("model", job.name, result["model"]),
        ("decoding", decoding_spec(job.decoding), result["decoding"]),
    )
    for what, ours, theirs in settings:
        if ours != theirs:
            raise DyrateError(f"--baseline {path}: its {what} is {theirs!r}, should be {ours!r}")
    _check_has(path, result["benchmarks"], job)
    samples = answers.read(ResultFiles.beside(path).answers, result)
    _check_has(path, samples, job)
    return result, samples


def _check_has(path: Path, known: Mapping[str, object], job: Evaluation) -> None:
    if missing := [name for name in job.benchmarks if name not in known]:
        raise DyrateError(f"--baseline {path}: has no benchmark {missing[0]!r}; it has {', '.join(known)}")


def _check_inputs(
    job: Evaluation, baseline: results.Result, model: "Answering", tasks: Sequence[LoadedTask]
) -> None:
    """Refuse a baseline of other weights, prompts, images or data, or in another dtype."""
    path, bounds = job.baseline, baseline["meta"].get("pixels")
    if bounds != (job.pixels and [*job.pixels]):
        raise DyrateError(
            f"--baseline {path}: its images have {told_bounds(bounds)}: ask with the same, or evaluate the "
            "unpruned model again"
        )
    ran_in = baseline["meta"].get("dtype", model.dtype)
    if ran_in != model.dtype:
        raise DyrateError(
            f"--baseline {path}: ran in {ran_in}, this run is in {model.dtype}; say --dtype {ran_in}, "
            "or evaluate the unpruned model again"
        )
    theirs = baseline["meta"].get("hashes", {})
    data = theirs.get("data", {})
    template = model.template_hash
    pairs = [
        ("weights", model.weights_hash, theirs.get("weights")),
        ("the prompts' template", template, theirs.get("template", template)),
    ]
    pairs += [
        (f"data of {loaded.benchmark.name}", loaded.data_hash, data.get(loaded.benchmark.name))
        for loaded in tasks
    ]
    for what, ours, other in pairs:
        if ours != other:
            raise DyrateError(
                f"--baseline {path}: its hash of {what} is {other}, this run's {ours}; "
                "evaluate the unpruned model again"
            )


def load(job: Asked) -> "DyrateModel":
    """Load the job's model; `evaluate_loaded` gives it its method and decoding."""
    from dyrate.evaluation.adapter import DyrateModel

    _use_threads(job)
    return DyrateModel(
        job.model,
        device=job.device,
        dtype=settled(job).dtype,
        engine=job.engine,
        batch_size=job.batch_size,
        revision=job.revision,
        chat_template=job.chat_template,
        pixels=job.pixels,
        **job.fit.told,
    )


def load_system(job: Evaluation) -> "Answering":
    """Load what the job's lmms-eval adapter answers for."""
    from dyrate.evaluation.system import System

    assert job.system is not None, "else `load` is called"
    _use_threads(job)
    return System(job.system, job.device, settled(job).dtype)


def _use_threads(job: Asked) -> None:
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)


def setting_of(job: Evaluation) -> "Setting":
    """Return what a job answers with."""
    from dyrate.evaluation.setting import Setting

    setting = Setting.of(job.method, job.decoding, job.files.log)
    setting.others = job.files.logs_of_parts
    return setting


def evaluate_loaded(
    job: Evaluation,
    model: "Answering",
    tasks: Sequence[LoadedTask],
    clock: "Clock | None" = None,
    setting: "Setting | None" = None,
    companions: "Sequence[Setting]" = (),
    unloaded: Mapping[str, Exception] | None = None,
) -> results.Result:
    """Run a job and write its result, run information, answers and response log; returns the result.

    A killed job goes on from its response log. `clock` has run since the job began. `setting` is the job's
    own, if others have answered with it already; `companions` are settings of jobs to come; `unloaded` has
    what is wrong with benchmarks that could not be loaded. Raises `DyrateError` for an unfit baseline.

    A benchmark that cannot be loaded, answered or scored costs no other: what there is becomes a partial
    result, which names each that failed, under a name of its own. Where all fail, the first error is raised.
    """
    clock, job = clock or Clock(perf_counter()), settled(job)
    baseline = None
    if job.baseline is not None:
        found, baseline = read_baseline(job, job.baseline)
        _check_inputs(job, found, model, tasks)
    setting = setting or setting_of(job)
    model.use(setting, companions)
    answered, failed = _answered(model, tasks, setting)
    failed = {**(unloaded or {}), **failed}
    if not answered:
        raise next(failed[name] for name in job.benchmarks if name in failed)
    for error in failed.values():
        if not isinstance(error, DyrateError):
            traceback.print_exception(error)
    tasks = [loaded for loaded in tasks if loaded.benchmark.name in answered]
    files_of = job.files.partial if failed else job.files
    clock.shift(setting.borrowed)
    generating = sum(record.seconds for record in model.records.values())
    clock.lap("harness")
    result = _result(job, model, tasks, answered, baseline)
    if failed:
        result["failed"] = {name: reason(failed[name]) for name in job.benchmarks if name in failed}
    result["meta"]["hashes"]["answers"] = answers.write(
        files_of.answers, {name: found.samples for name, found in answered.items()}
    )
    results.write(files_of.result, result)
    if not failed:
        job.files.partial.remove()
    clock.lap("score")
    clock.stages["generate"] = generating
    clock.stages["harness"] -= generating
    files.write_json(files_of.run, _run_information(files_of.result, model, tasks, clock))
    return result


def _answered(
    model: "Answering", tasks: Sequence[LoadedTask], setting: "Setting"
) -> tuple[dict[str, Answered], dict[str, Exception]]:
    """Every benchmark's answers, scored, and what is wrong with those that have none.

    All are asked at once. If that fails, each is asked by itself: what has been answered is in the log.
    """
    try:
        return (run_harness(model, tasks) if tasks else {}), {}
    except Exception as error:  # noqa: BLE001 - as below
        if len(tasks) == 1:
            return {}, {tasks[0].benchmark.name: error}
        logger.warning("{}; now each benchmark by itself", reason(error))
    answered: dict[str, Answered] = {}
    failed: dict[str, Exception] = {}
    setting.records.clear()
    for loaded in tasks:
        try:
            answered |= run_harness(model, [loaded])
        except Exception as error:  # noqa: BLE001 - it is told, and the others are measured
            failed[loaded.benchmark.name] = error
    return answered, failed


def reason(error: BaseException) -> str:
    """An error in one line, with its kind where it is none of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DyrateError) else f"{type(error).__name__}: {text}".removesuffix(": ")


class Clock:
    """Wall seconds since a start, by stage."""

    def __init__(self, started: float) -> None:
        self.started = self._last = started
        self.stages: dict[str, float] = {}

    def shift(self, seconds: float) -> None:
        """Count so many more seconds to the stage under way."""
        self.started -= seconds
        self._last -= seconds

    def lap(self, stage: str) -> None:
        """The stage ends now."""
        now = perf_counter()
        self.stages[stage] = now - self._last
        self._last = now


def _result(
    job: Evaluation,
    model: "Answering",
    tasks: Sequence[LoadedTask],
    answered: Mapping[str, Answered],
    baseline: Mapping[str, Sequence[Sample]] | None,
) -> results.Result:
    benchmarks: dict[str, BenchmarkResult] = {}
    for loaded in tasks:
        benchmark, found = loaded.benchmark, answered[loaded.benchmark.name]
        theirs = None
        if baseline is not None:
            theirs = differences(benchmark, found.samples, baseline[benchmark.name], job.seed, RESAMPLES)
        record = model.records[loaded.name]
        visual_tokens, work = means_and_work(record.tokens)
        benchmarks[benchmark.name] = {
            **scored(loaded, found, job.seed),
            "difference": theirs,
            "visual_tokens": visual_tokens,
            "work": work,
        }
        if record.prompt is not None:
            benchmarks[benchmark.name]["prompt"] = record.prompt
    result: results.Result = {
        "schema": results.SCHEMA,
        "version": results.VERSION,
        "study": job.study,
        "model": job.name,
        "method": model.method.spec(),
        "label": model.label or job.name,
        "origin": model.method.origin,
        "decoding": model.decoding,
        "benchmarks": benchmarks,
        "meta": meta(job, model, tasks, provenance.result_code(model.method.spec())),
    }
    if model.shape is not None:
        result["shape"] = model.shape
    return result


def meta(job: Asked, model: "Answering", tasks: Sequence[LoadedTask], code: str) -> results.Meta:
    """How a file of results comes about; `code` is the hash of the code behind it."""
    hashes: results.Hashes = {
        "data": {loaded.benchmark.name: loaded.data_hash for loaded in tasks},
        "code": code,
    }
    if model.weights_hash:
        hashes["weights"] = model.weights_hash
    if model.template_hash:
        hashes["template"] = model.template_hash
    if model.method.content_hash:  # a trained predictor's, which the spec only names
        hashes["method"] = model.method.content_hash
    found: results.Meta = {
        "command": job.command(),
        "seed": job.seed,
        "device": device_name(model),
        "dtype": model.dtype,
        "batch_size": model.batch_size,
        "samples": job.samples,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "hashes": hashes,
        "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "seed": job.seed},
    }
    revisions: results.Revisions = {} if model.revision is None else {"model": model.revision}
    if data := {loaded.benchmark.name: loaded.revision for loaded in tasks if loaded.revision}:
        revisions["data"] = data
    if revisions:
        found["revisions"] = revisions
    if job.subsets:
        found["subsets"] = job.subsets
    if model.engine is not None:
        found["engine"] = model.engine
    if job.pixels is not None:
        found["pixels"] = list(job.pixels)
    if job.device_map is not None:
        found["device_map"] = job.device_map
    if job.bits is not None:
        found["bits"] = job.bits
    if model.repetition_penalty != 1:
        found["repetition_penalty"] = model.repetition_penalty
    if model.provenance is not None:
        found["adapter"] = model.provenance
    if model.connector is not None:
        found["connector"] = model.connector
    return found


def device_name(model: "Answering") -> str:
    """`cpu`, or the name of the GPU that the model stands on."""
    import torch

    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type


def _run_information(
    result: Path, model: "Answering", tasks: Sequence[LoadedTask], clock: Clock
) -> results.RunInformation:
    import torch

    records = {loaded.benchmark.name: model.records[loaded.name] for loaded in tasks}
    generated = sum(record.generated for record in records.values())
    seconds = sum(record.seconds for record in records.values())
    return {
        "schema": "dyrate.run",
        "version": results.VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "result": files.digest(files.read_bytes(result)),
        "wall_seconds": perf_counter() - clock.started,
        "generate_seconds": seconds,
        "samples": generated + sum(record.reused for record in records.values()),
        "samples_per_second": generated / seconds if seconds else 0.0,
        "reused_samples": sum(record.reused for record in records.values()),
        "seconds": {name: record.seconds for name, record in records.items()},
        "stages": clock.stages,
        "host": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": device_name(model),
            "python": platform.python_version(),
        },
    }
