"""What was measured: a study's result files with their run information, read and checked."""

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dyrate.analysis import external, reasons
from dyrate.analysis.measurement import Measurement
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.decoding import decoding_slug, decoding_spec
from dyrate.evaluation.results import SCHEMA, VERSION, Meta, Result, ResultError, ResultFiles, read, read_run
from dyrate.predictor_training.recipe import Recipe
from dyrate.study import Study, StudyJob
from dyrate.typed import Origin


def load(study: Study, failed: bool = False) -> tuple[Measurement, ...]:
    """Read a study's result files and, where present, the run information beside them.

    A job without a result has a measurement that says why, and one with a partial result says so of what is
    missing. Where anything is missing, or jobs have `failed`, only results that the study would make now are
    taken: others would be replaced if all jobs had run.

    Raises `ResultError` for a result that is not the one of its place (of another study, job or kind of
    tasks) and for one of another producer with what nobody can have measured: its figures would be shown as
    what they are not.
    """
    jobs = {job.result: job for job in study.jobs}
    whole = not failed and all(
        Path(path).exists() and not reasons.untrained(study, job) for path, job in jobs.items()
    )
    measurements: list[Measurement] = []
    for path in study.results:
        job = jobs.get(path)
        found = (
            _what_there_is(study, job) if job and not whole else _load(ResultFiles.beside(Path(path)), job)
        )
        measurements.append(replace(found, among=measurements))
    labels = {m.job.method.slug: m.label for m in measurements if m.job and m.measured and not m.system}
    for m in measurements:
        if m.job and not m.measured and not m.system:
            m.result["label"] = labels.get(m.job.method.slug, m.label)
    if lines := [line for m in measurements if m.measured for line in _misplaced(m, study)]:
        raise ResultError("\n".join(lines))
    ours = [m.result for m in measurements if m.job and m.measured]
    theirs = [(str(m.files.result), m.result) for m in measurements if not m.job]
    if lines := list(external.problems(theirs, ours)):
        raise ResultError("\n".join(lines))
    return tuple(measurements)


def _misplaced(m: Measurement, study: Study) -> Iterator[str]:
    path = m.files.result
    if m.result["study"] != study.name:
        yield f"{path}: study: is {m.result['study']!r}, but the study that lists it is {study.name!r}"
    for name, measured in m.result["benchmarks"].items():
        known = BENCHMARKS.get(name)
        foreign = known and (known.hub_task if study.tasks == "testbed" else known.testbed_task)
        if measured["task"] == foreign:
            yield (
                f"{path}: benchmarks.{name}.task: {foreign!r} has other data than "
                f"study {study.name!r}, whose tasks are {study.tasks!r}"
            )
    for what, given, wanted in _job_facts(m.result, m.job) if m.job else ():
        if given != wanted:
            yield (
                f"{path}: {what}: is {given!r}, but this is the place of {wanted!r}: was it copied here? "
                "Delete it, and run the study again"
            )


def _job_facts(result: Result, job: StudyJob) -> Iterator[tuple[str, Any, Any]]:
    """What a result says of its job, and what the job says."""
    yield "model", result["model"], job.model.name
    method, given = result["method"], _asked(result["meta"]["command"])
    yield "method", {key: method.get(key) for key in job.spec}, job.spec
    if given is not None:  # what the job leaves to the method's default may be set otherwise
        yield "method", given, job.spec
    adapter, system = result["meta"].get("adapter"), job.model.system
    asked = system and {"name": system.name, **system.options}
    yield "meta.adapter", adapter and {key: adapter.get(key) for key in asked or adapter}, asked
    yield "decoding", decoding_slug(result["decoding"]), decoding_slug(job.decoding)
    found = [*result["benchmarks"], *result.get("failed", ())]
    yield "benchmarks", sorted(found), sorted(job.method.benchmarks)


def _asked(command: str) -> Any:
    """The method as `dyrate evaluate` was asked for it; None for another command."""
    try:
        words = shlex.split(command)
        return json.loads(words[words.index("--method") + 1])
    except (ValueError, IndexError):
        return None


def source(study: Study, measurements: Iterable[Measurement]) -> Literal["testbed", "hub", "other"]:
    """Where every measured figure comes from, as far as the results' own task names show it."""
    sources = [
        (BENCHMARKS[name], benchmark["task"])
        for m in measurements
        for name, benchmark in m.result["benchmarks"].items()
        if name in BENCHMARKS
    ]
    if study.tasks == "testbed" and all(task == benchmark.testbed_task for benchmark, task in sources):
        return "testbed"
    if study.tasks == "hub" and all(task == benchmark.hub_task for benchmark, task in sources):
        return "hub"
    return "other"


def _load(files: ResultFiles, job: StudyJob | None) -> Measurement:
    result = read(files.result)
    run = read_run(files.run, files.result) if files.run.exists() else None
    return Measurement(files, result, run, job, result.get("failed", {}))


def _what_there_is(study: Study, job: StudyJob) -> Measurement:
    """A job's result, or a part of it, or a measurement of nothing."""
    whole = ResultFiles.beside(Path(job.result))
    reason = reasons.why(study, job)
    for files in (whole, whole.partial):
        if files.result.exists():
            found = _load(files, job)
            old = reasons.outdated(study, job, files.result, found.result)
            if old is None:
                return found
            reason = f"{old}; {reason}"
    system = job.model.system
    asked = study.evaluation(job)
    meta: Meta = {
        "command": asked.command(),
        "seed": asked.seed,
        "device": asked.device,
        "dtype": asked.dtype,
    }
    if system is not None:
        meta["adapter"] = {**system.model_dump(), "class_path": ""}  # type: ignore[typeddict-item]
    nothing: Result = {
        "schema": SCHEMA,
        "version": VERSION,
        "study": study.name,
        "model": job.model.name,
        "method": job.spec,
        "label": _label(job),
        "origin": _origin(job),
        "decoding": decoding_spec(job.decoding),
        "benchmarks": {},
        "meta": meta,
    }
    return Measurement(whole, nothing, None, job, dict.fromkeys(job.method.benchmarks, reason))


def _origin(job: StudyJob) -> Origin | None:
    """Whose its recipe is, which keeps what is ours out of the paper's rows."""
    if job.predictor is None:
        return None
    return Recipe.read(job.predictor.recipe, f"predictors: {job.predictor.name}").config(1).origin


def _label(job: StudyJob) -> str:
    """A method as the config has it; its own label is known where it could be loaded."""
    if job.model.system is not None:
        return job.model.name
    fields = ", ".join(f"{key}={value}" for key, value in job.method.spec.items() if key != "name")
    return f"{job.method.name} ({fields})" if fields else job.method.name
