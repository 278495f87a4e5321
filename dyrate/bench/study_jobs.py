"""The latencies that a study asks for: of which rows, on which prompts, in which files. Imports no torch."""

from dyrate.bench.job import Bench
from dyrate.evaluation.provenance import result_code
from dyrate.fingerprint import fingerprint
from dyrate.study import Model, Study, StudyError, StudyJob
from dyrate.study.config import Latency


def timed(study: Study) -> dict[str, tuple[StudyJob, ...]]:
    """By document, the jobs whose methods are timed; none where the config has no `latency`.

    They are greedy ones with a row of Table II, whose times the paper prints, or with a predictor, among the
    main ones. A model's document has its name; jobs that wait for a training, which may fail, are in one of
    their own.

    Raises `StudyError` for a benchmark that the study does not have: its data would be made by no rule; and
    for a model over several devices, or in fewer bits.
    """
    if study.typed.latency is None:
        return {}
    if (name := study.typed.latency.benchmark) not in study.benchmarks:
        known = ", ".join(study.benchmarks)
        raise StudyError(f"latency.benchmark: {name!r} is none of the study's benchmarks: {known}")
    found: dict[str, list[StudyJob]] = {}
    for job in study.jobs:
        wanted = job.method.group == "main" and ("table2" in job.method.published or job.method.predictor)
        if wanted and job.decoding["name"] == "greedy":
            if job.model.fit:
                raise StudyError(
                    f"latency: {job.model.name} has {' and '.join(job.model.fit)}, and times of such a model "
                    "are not comparable: leave out latency, or time the model whole on one device"
                )
            found.setdefault(_name(job), []).append(job)
    return {name: tuple(jobs) for name, jobs in found.items()}


def _name(job: StudyJob) -> str:
    return f"{job.model.name}{'+trained' if job.predictor_files(shipped=False) else ''}"


def document(study: Study, name: str) -> str:
    """The path of a document."""
    return f"results/{study.name}/latency/{name}.json"


def documents(study: Study) -> list[str]:
    """Those of all models."""
    return [document(study, name) for name in timed(study)]


def predictor_files(jobs: tuple[StudyJob, ...], shipped: bool) -> list[str]:
    """The files of the predictors that are shipped, or of those that a rule trains."""
    return [path for job in jobs for path in job.predictor_files(shipped)]


def data_files(study: Study) -> tuple[str, ...]:
    """The testbed's data that the prompts are read from; none for other sources."""
    return study.data_of((_settings(study).benchmark,))


def job(study: Study, model: Model, jobs: tuple[StudyJob, ...]) -> Bench:
    """What a document's `dyrate bench` is asked; CPU threads are the workflow's to add."""
    latency, engine = _settings(study).model_dump(exclude_none=True), study.typed.engine
    if "new_tokens" in latency:
        latency["new_tokens"] = (latency["new_tokens"],)
    if engine == "auto":
        engine = "graph" if study.gpus else "transformers"
    return Bench.model_validate(
        {
            **study.shared(Bench),
            **latency,
            "peers": (),
            "methods": [job.spec for job in jobs],
            **model.asked,
            "engine": (engine,),
            "output": document(study, _name(jobs[0])),
        }
    )


def code(jobs: tuple[StudyJob, ...]) -> str:
    """A hash of the code that is timed, and of that which times it."""
    methods = "-".join(result_code(job.method.spec) for job in jobs)
    return f"{fingerprint(['dyrate.bench.commands'])}-{methods}"


def _settings(study: Study) -> Latency:
    assert study.typed.latency is not None, "timed() names no model"
    return study.typed.latency
