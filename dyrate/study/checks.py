"""What a config of the right shape may still get wrong: unknown names, and results that would clash."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from dyrate import registry
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.job import SOURCES
from dyrate.paper import published
from dyrate.speed.documents import FOLDER as SPEED
from dyrate.study.plan import Plan
from dyrate.typed import meant

Name = TypeVar("Name", str, tuple[str, str])
# What stands beside the models in a study's folder.
PLACES = ("latency", "logs", "predictors", "study.json", "tables", "timings", "trace")


def problems(plan: Plan) -> Iterator[str]:
    """Yield a line, with its key, for each name that is unknown, given twice, or without a counterpart."""
    yield from _places(plan)
    yield from _benchmarks(plan)
    yield from _models(plan)
    yield from _decodings(plan)
    yield from _methods(plan)
    yield from _predictors(plan)
    yield from _unprinted(plan)
    if plan.tasks not in SOURCES and not Path(plan.tasks).is_dir():
        yield f"tasks: {plan.tasks!r} is no folder and none of {', '.join(SOURCES)}"
    if plan.tasks == "testbed" and plan.typed.samples is None:
        yield "samples: null takes all, but the testbed draws as many as it is asked for: give a number"


def _places(plan: Plan) -> Iterator[str]:
    """Where the study would write over what is not its own."""
    if plan.name == SPEED.name:
        yield f"study: {plan.name!r} is taken: {SPEED} holds times measured on a GPU"
    for folder in (Path("results", plan.name), Path("reports", plan.name)):
        if folder.exists() and not folder.is_dir():
            yield f"study: {plan.name!r} is taken: {folder} is a file"
    made = {os.path.normpath(job.result) for job in plan.jobs}
    for path in plan.external:
        if os.path.relpath(path) in made:
            yield f"external: {path} is a result of this study's own, which is in its tables already"
    if plan.typed.device == "cpu" and plan.typed.resources.gpu:
        yield "resources.gpu: the device is the CPU, which needs no GPU to wait for"


def _benchmarks(plan: Plan) -> Iterator[str]:
    for name in plan.benchmarks:
        if name not in BENCHMARKS:
            yield f"benchmarks: {name!r} is unknown{meant(name, BENCHMARKS)}"
    for entry in plan.config["methods"]:
        for name in entry.get("benchmarks", ()):
            if name not in plan.benchmarks:
                hint = meant(name, plan.benchmarks)
                yield f"methods: {entry}: {name!r} is no benchmark of the study{hint}"


def _models(plan: Plan) -> Iterator[str]:
    names = [model.name for model in plan.models]
    yield from (f"models: {name!r} is listed twice" for name in _repeated(names))
    yield from (
        f"models: {name!r} is what the study's folder has beside models" for name in names if name in PLACES
    )
    paths: dict[str, str] = {}
    for model in plan.models:
        if (first := paths.setdefault(os.path.normpath(model.path), model.name)) != model.name:
            yield f"models: {model.name!r} has the path of {first!r}: {model.path}"
    for key in ("methods", "predictors"):
        for entry in plan.config[key]:
            for name in entry.get("models", ()):
                if name not in names:
                    yield f"{key}: {entry}: {name!r} is no model of the study{meant(name, names)}"


def _decodings(plan: Plan) -> Iterator[str]:
    given = [
        *plan.config["decodings"],
        *(decoding for method in plan.methods for decoding in method.decodings),
    ]
    complaints = []
    for decoding in given:
        try:
            decoding_spec(decoding)
        except DyrateError as error:
            complaints.append(f"decodings: {error}")
    yield from dict.fromkeys(complaints)


def _methods(plan: Plan) -> Iterator[str]:
    for method in plan.methods:
        try:
            registry.module_file(method.spec)
        except DyrateError as error:
            yield f"methods: {error}"
    yield from (f"two jobs would write {path}" for path in _repeated(job.result for job in plan.jobs))
    yield from dict.fromkeys(_without_baseline(plan))


def _without_baseline(plan: Plan) -> Iterator[str]:
    for job in plan.jobs:
        base, model = plan.unpruned(job), job.model.name
        if base is None:
            under = "" if job.decoding in plan.decodings else f" under {job.decoding['name']}"
            yield f"methods: no 'none' on {model!r}{under}: its differences are taken from the unpruned model"
        elif missing := [name for name in job.method.benchmarks if name not in base.method.benchmarks]:
            slug = job.method.slug
            yield f"methods: 'none' on {model!r} lacks the benchmark {missing[0]!r}, which {slug} has"


def _predictors(plan: Plan) -> Iterator[str]:
    keys = [(entry.name, entry.model.name) for entry in plan.predictors]
    yield from (f"predictors: {name!r} is given twice for {model!r}" for name, model in _repeated(keys))
    for method in plan.methods:
        for model in method.models:
            if method.predictor is not None and (method.predictor, model) not in keys:
                known = dict.fromkeys(name for name, on in keys if on == model)
                where = f"methods: {method.slug}: no predictor {method.predictor!r} on {model!r}"
                yield f"{where}{meant(str(method.predictor), known)}"


def _unprinted(plan: Plan) -> Iterator[str]:
    """What stands under `published`, but not in the paper's tables."""
    printed = {"table1": published.table1(), "table2": published.table2(), "strategy": published.strategy()}
    rows = {table: list(dict.fromkeys(row.name for row in found)) for table, found in printed.items()}
    models = list(dict.fromkeys([published.TABLE1_MODEL, *(row.group for row in published.table2())]))
    for method in plan.methods:
        for table, row in method.published.items():
            if row not in rows[table]:
                where = f"methods: {method.slug}: published.{table}"
                yield f"{where}: no row {row!r}{meant(row, rows[table])}"
    for model in plan.models:
        if model.published is not None and model.published not in models:
            where = f"models: {model.name}: published"
            yield f"{where}: no model {model.published!r}{meant(model.published, models)}"


def _repeated(names: Iterable[Name]) -> list[Name]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})
