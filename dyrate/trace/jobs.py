"""The traces that a study asks for: which models, on which benchmarks, into which files. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.provenance import result_code
from dyrate.fingerprint import fingerprint
from dyrate.study import Model, Study, StudyError
from dyrate.trace.files import TraceFiles


def traced(study: Study) -> dict[str, Model]:
    """The models to trace, by name; none where the config has no `trace`.

    Raises `StudyError` for a benchmark that the study does not have: its data would be made by no rule.
    """
    if "trace" not in study.config:
        return {}
    for name in benchmarks(study):
        if name not in study.benchmarks:
            known = ", ".join(study.benchmarks)
            raise StudyError(f"trace.benchmarks: {name!r} is none of the study's benchmarks: {known}")
    return {model.name: model for model in study.models}


def summaries(study: Study) -> list[str]:
    """The summary that each traced model leaves behind."""
    return [str(TraceFiles.in_study(study.name, name).summary) for name in traced(study)]


def benchmarks(study: Study) -> tuple[str, ...]:
    """Names of the traced benchmarks: the config's, else all captioning and VQA ones of the study."""
    groups = [name for name in study.benchmarks if BENCHMARKS[name].group in ("caption", "vqa")]
    return tuple(_settings(study).get("benchmarks", groups))


def data_files(study: Study) -> list[str]:
    """The testbed's data that a trace reads; none for other sources."""
    if study.tasks != "testbed":
        return []
    return [f"{study.config['data']}/{name}.parquet" for name in benchmarks(study)]


def arguments(study: Study, model: Model) -> list[str]:
    """What a model's `dyrate trace` is called with; CPU threads are the workflow's to add."""
    config = study.config
    options = {
        "--study": study.name,
        "--model": model.path,
        "--model-name": model.name,
        "--tasks": study.tasks,
        "--data": config["data"] if study.tasks == "testbed" else None,
        "--samples": _settings(study).get("samples"),
        "--batch-size": config["batch_size"],
        "--device": config["device"],
        "--dtype": config["dtype"],
        "--engine": config["engine"],
        "--seed": config["seed"],
        "--output": TraceFiles.in_study(study.name, model.name).summary,
    }
    given = [part for key, value in options.items() if value is not None for part in (key, str(value))]
    return ["--benchmarks", *benchmarks(study), *given]


def code() -> str:
    """A hash of the code that a trace runs."""
    return f"{fingerprint(['dyrate.trace.commands'])}-{result_code({'name': 'none'})}"


def _settings(study: Study) -> Mapping[str, Any]:
    found: Mapping[str, Any] = study.config["trace"]
    return found
