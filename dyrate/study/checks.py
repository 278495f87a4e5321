"""What a config of the right shape may still get wrong: unknown names, and results that would clash."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from dyrate import registry
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import ALL, BENCHMARKS
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.job import DEFAULT, SOURCES
from dyrate.paper import published
from dyrate.speed.documents import FOLDER as SPEED
from dyrate.study.entries import NONE
from dyrate.study.plan import Plan
from dyrate.typed import meant

Name = TypeVar("Name", str, tuple[str, str])
# What stands beside the models in a study's folder.
PLACES = {
    *("fetched", "latency", "logs", "parts", "predictors", "study.json", "survival", "tables"),
    *("timings", "trace"),
}


def problems(plan: Plan) -> Iterator[str]:
    """Yield a line, with its key, for each name that is unknown, given twice, or without a counterpart."""
    yield from _places(plan)
    yield from _unknown_names(plan)
    yield from _without_effect(plan)
    if plan.typed.revisions and plan.tasks != "hub":
        yield f"revisions: are of data sets on the hub, and the study's tasks are {plan.tasks!r}"
    yield from _unpublished(plan)
    yield from _models(plan)
    yield from _fits(plan)
    yield from _decodings(plan)
    yield from _methods(plan)
    if plan.tasks not in SOURCES and not Path(plan.tasks).is_dir():
        yield f"tasks: {plan.tasks!r} is no folder and none of {', '.join(SOURCES)}"
    if plan.tasks == "testbed":
        without = [name for name in plan.benchmarks if name in BENCHMARKS and not BENCHMARKS[name].testbed]
        yield from (f"benchmarks: the testbed has no rows of {name!r}; the hub has" for name in without)
    if plan.tasks == "testbed" and any(cut.samples is None for cut in plan.cuts.values()):
        yield "samples: null takes all, but the testbed draws as many as it is asked for: give a number"


def _fits(plan: Plan) -> Iterator[str]:
    """Models that the study's engine does not run."""
    for model in plan.models if plan.typed.engine == "graph" else ():
        for key in model.fit:
            yield (
                f"models: {model.name}: {key}: the engine graph runs models that are whole on one device, "
                "with the weights as they are stored: leave out engine, which then is transformers for it"
            )


def _places(plan: Plan) -> Iterator[str]:
    """Where the study would write over what is not its own."""
    if plan.name == SPEED.name:
        yield f"study: {plan.name!r} is taken: {SPEED} holds times measured on a GPU"
    for folder in (Path("results", plan.name), Path("reports", plan.name)):
        if folder.exists() and not folder.is_dir():
            yield f"study: {plan.name!r} is taken: {folder} is a file"
    made = {os.path.normpath(job.result) for job in plan.jobs}
    for path in plan.typed.external:
        if os.path.relpath(path) in made:
            yield f"external: {path} is a result of this study's own, which is in its tables already"
    if plan.typed.device == "cpu" and plan.typed.resources.gpu:
        yield "resources.gpu: the device is the CPU, which needs no GPU to wait for"


def _unknown_names(plan: Plan) -> Iterator[str]:
    models = [model.name for model in plan.models]
    yield from _unknown("benchmarks", plan.benchmarks, BENCHMARKS, "unknown")
    yield from _by_benchmark(plan)
    for key in ("methods", "predictors"):
        for entry in plan.config[key]:
            yield from _unknown(f"{key}: {entry}", entry.get("models", ()), models, "no model of the study")
    for entry in plan.config["methods"]:
        named = entry.get("benchmarks", ())
        yield from _unknown(f"methods: {entry}", named, plan.benchmarks, "no benchmark of the study")
    for method in plan.methods:
        for model in method.models if method.predictor is not None else ():
            trained = dict.fromkeys(entry.name for entry in plan.predictors if entry.model.name == model)
            where = f"methods: {method.slug}"
            yield from _unknown(where, [str(method.predictor)], trained, f"no predictor on {model!r}")


def _by_benchmark(plan: Plan) -> Iterator[str]:
    """What is said of single benchmarks."""
    no = "no benchmark of the study"
    if isinstance(plan.typed.samples, dict):
        yield from _unknown("samples", plan.typed.samples, [*plan.benchmarks, DEFAULT], no)
    # All of a benchmark that is known may stand there while a study of fewer is run.
    asked = [name for name, one in plan.typed.subsets.items() if one != ALL or name not in BENCHMARKS]
    yield from _unknown("subsets", asked, plan.benchmarks, no)
    yield from _unknown("revisions", plan.typed.revisions, plan.benchmarks, no)
    yield from _unknown("parts", plan.typed.parts, [*BENCHMARKS, DEFAULT], "no benchmark")
    for name, subset in plan.typed.subsets.items():
        if name in BENCHMARKS:
            known = [ALL, *(one.name for one in BENCHMARKS[name].subsets)]
            yield from _unknown(f"subsets.{name}", [subset], known, "no subset of it")


def _without_effect(plan: Plan) -> Iterator[str]:
    """What would be asked of a system behind an lmms-eval adapter, which is evaluated once and as it is."""
    systems = [model.name for model in plan.models if model.adapter is not None]
    for key in ("methods", "predictors"):
        for entry in plan.config[key]:
            for name in entry.get("models", ()):
                if name in systems:
                    yield (
                        f"{key}: {entry}: {name!r} is asked by its lmms-eval adapter, once, greedily and as "
                        "it is: neither methods nor predictors apply to it"
                    )
    if len(systems) < len(plan.models):
        return
    why = "all models of the study are asked by lmms-eval adapters, to which it does not apply: leave it out"
    for key in ("predictors", "rank_at", "trace", "survival", "latency"):
        if plan.config.get(key):
            yield f"{key}: {why}"
    yield from (f"methods: {method.slug}: {why}" for method in plan.methods if method.name != NONE)


def _unpublished(plan: Plan) -> Iterator[str]:
    """What stands under `published`, but not in the paper's tables."""
    tables = {"table1": published.table1(), "table2": published.table2(), "strategy": published.strategy()}
    models = dict.fromkeys([published.TABLE1_MODEL, *(row.group for row in tables["table2"])])
    for model in plan.models:
        rows, what = models, "no model of the paper's"
        if model.adapter is not None or model.against is not None:
            rows, what = dict.fromkeys(row.title for row in tables["table1"]), "no row of Table I"
        yield from _unknown(f"models: {model.name}: published", model.published, rows, what)
    for method in plan.methods:
        for table, row in method.published.items():
            rows = dict.fromkeys(printed.name for printed in tables[table])
            yield from _unknown(f"methods: {method.slug}: published.{table}", [row], rows, "no row of it")


def _unknown(where: str, names: Iterable[str], known: Collection[str], what: str) -> Iterator[str]:
    return (f"{where}: {name!r} is {what}{meant(name, known)}" for name in names if name not in known)


def _models(plan: Plan) -> Iterator[str]:
    names = [model.name for model in plan.models]
    yield from (f"models: {name!r} is listed twice" for name in _repeated(names))
    yield from (
        f"models: {name!r} is what the study's folder has beside models" for name in names if name in PLACES
    )
    alone = {model.name for model in plan.models if model.against is None and model.adapter is None}
    for model in plan.models:
        against = () if model.against is None else (model.against,)
        yield from _unknown(
            f"models: {model.name}: against", against, alone, "no model of the study that stands by itself"
        )
    paths: dict[str, str] = {}
    for model in plan.models:
        system = model.system
        asked = f"{os.path.normpath(model.path)}@{model.revision} {model.chat_template} {model.pixels}"
        what = asked if system is None else system.model_dump_json()
        if (first := paths.setdefault(what, model.name)) != model.name:
            same = "the path" if system is None else f"the adapter {system.name} with the arguments"
            yield f"models: {model.name!r} has {same} of {first!r}: {model.path or model.arguments}"
    on_models = _repeated((entry.name, entry.model.name) for entry in plan.predictors)
    yield from (f"predictors: {name!r} is given twice for {model!r}" for name, model in on_models)


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
            under = f"under {job.decoding['name']}"
            yield f"methods: no 'none' on {model!r} {under}: differences are taken from the unpruned model"
        elif missing := [name for name in job.method.benchmarks if name not in base.method.benchmarks]:
            slug = job.method.slug
            yield f"methods: 'none' on {model!r} lacks the benchmark {missing[0]!r}, which {slug} has"


def _repeated(names: Iterable[Name]) -> list[Name]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})
