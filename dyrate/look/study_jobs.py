"""The survival records that a study asks for: of which models and methods, and where. Imports no torch."""

from pathlib import Path

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.provenance import result_code
from dyrate.fingerprint import fingerprint
from dyrate.look.record import partial
from dyrate.look.survival_job import Survive
from dyrate.study import Model, Study, StudyError, StudyJob
from dyrate.study.config import SurvivalSettings
from dyrate.study.entries import NONE
from dyrate.typed import meant


def survivals(study: Study) -> dict[str, tuple[StudyJob, ...]]:
    """By model, the jobs whose answers are looked at again: the unpruned model's, then the first of each
    method that the config names, all greedy; none where the config has no `survival`.

    Raises `StudyError` for a benchmark or a method that the study does not have.
    """
    if study.typed.survival is None:
        return {}
    methods = dict.fromkeys(method.name for method in study.methods)
    for key, names, known in (
        ("benchmarks", _settings(study).benchmarks or (), study.benchmarks),
        ("methods", _settings(study).methods, [name for name in methods if name != NONE]),
    ):
        for name in names:
            if name not in known:
                raise StudyError(f"survival.{key}: {name!r} is none of the study's{meant(name, known)}")
    found = {}
    for model in study.models:
        jobs = [job for job in study.jobs if job.model is model and _whole(study, job)]
        first = [
            next((job for job in jobs if job.method.name == name), None)
            for name in (NONE, *_settings(study).methods)
        ]
        if model.adapter is None and first[0] is not None and any(first[1:]):
            found[model.name] = tuple(job for job in first if job is not None)
    return found


def _whole(study: Study, job: StudyJob) -> bool:
    """Whether a job is greedy and on every benchmark that is looked at."""
    return job.decoding["name"] == "greedy" and {*benchmarks(study)} <= {*job.method.benchmarks}


def record(study: Study, model: str) -> str:
    """The path of a model's record."""
    return f"results/{study.name}/survival/{model}.json"


def drawable(study: Study) -> list[str]:
    """What there is of the records, whole or in part."""
    paths = [Path(record(study, model)) for model in survivals(study)]
    return [str(there) for path in paths for there in [p for p in (path, partial(path)) if p.exists()][:1]]


def page(study: Study) -> list[str]:
    """The page of them all, if there is one."""
    return [f"reports/{study.name}/survival.html"] if survivals(study) else []


def benchmarks(study: Study) -> tuple[str, ...]:
    """Names of the benchmarks: the config's, else all captioning and VQA ones of the study."""
    groups = [name for name in study.benchmarks if BENCHMARKS[name].group in ("caption", "vqa")]
    return _settings(study).benchmarks or tuple(groups)


def answers(jobs: tuple[StudyJob, ...]) -> list[str]:
    """The files of the answers beside the results."""
    return [f"{job.stem}.answers.parquet" for job in jobs]


def predictor_files(jobs: tuple[StudyJob, ...], shipped: bool) -> list[str]:
    """The files of the predictors that are shipped, or of those that a rule trains."""
    return [path for job in jobs for path in job.predictor_files(shipped)]


def job(study: Study, model: Model, jobs: tuple[StudyJob, ...]) -> Survive:
    """What a model's `dyrate survival` is asked; CPU threads are the workflow's to add."""
    return Survive.model_validate(
        {
            **study.shared(Survive),
            "benchmarks": benchmarks(study),
            **model.asked,
            **model.fit,
            "model_name": model.name,
            "results": [job.result for job in jobs],
            "shown": _settings(study).samples,
            "output": record(study, model.name),
        }
    )


def code(jobs: tuple[StudyJob, ...]) -> str:
    """A hash of the code that a record comes from."""
    methods = "-".join(result_code(job.method.spec) for job in jobs)
    return f"{fingerprint(['dyrate.look.survival'])}-{methods}"


def _settings(study: Study) -> SurvivalSettings:
    assert study.typed.survival is not None, "survivals() names no model"
    return study.typed.survival
