"""The traces that a study asks for: which models, on which benchmarks, into which files. Imports no torch."""

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.provenance import result_code
from dyrate.fingerprint import fingerprint
from dyrate.study import Model, Study, StudyError
from dyrate.study.config import TraceSettings
from dyrate.trace.files import TraceFiles
from dyrate.trace.job import Trace


def traced(study: Study) -> dict[str, Model]:
    """The models to trace, by name; none where the config has no `trace`.

    Where a system looks that lmms-eval's adapters answer for is not seen.

    Raises `StudyError` for a benchmark that the study does not have: its data would be made by no rule.
    """
    if study.typed.trace is None:
        return {}
    for name in benchmarks(study):
        if name not in study.benchmarks:
            known = ", ".join(study.benchmarks)
            raise StudyError(f"trace.benchmarks: {name!r} is none of the study's benchmarks: {known}")
    return {model.name: model for model in study.models if model.adapter is None}


def summaries(study: Study) -> list[str]:
    """The summary that each traced model leaves behind."""
    return [str(TraceFiles.in_study(study.name, name).summary) for name in traced(study)]


def benchmarks(study: Study) -> tuple[str, ...]:
    """Names of the traced benchmarks: the config's, else all captioning and VQA ones of the study."""
    groups = [name for name in study.benchmarks if BENCHMARKS[name].group in ("caption", "vqa")]
    return _settings(study).benchmarks or tuple(groups)


def data_files(study: Study) -> tuple[str, ...]:
    """The testbed's data that a trace reads; none for other sources."""
    return study.data_of(benchmarks(study))


def job(study: Study, model: Model) -> Trace:
    """What a model's `dyrate trace` is asked; CPU threads are the workflow's to add."""
    shared = study.shared(Trace)
    del shared["samples"]  # a trace has its own number
    return Trace.model_validate(
        {
            **shared,
            **_settings(study).model_dump(exclude_none=True),
            "benchmarks": benchmarks(study),
            **model.asked,
            **model.fit,
            "model_name": model.name,
            "output": TraceFiles.in_study(study.name, model.name).summary,
        }
    )


def code() -> str:
    """A hash of the code that a trace runs."""
    return f"{fingerprint(['dyrate.trace.commands'])}-{result_code({'name': 'none'})}"


def _settings(study: Study) -> TraceSettings:
    assert study.typed.trace is not None, "traced() names no model"
    return study.typed.trace
