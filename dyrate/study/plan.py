"""What follows from a study's config: its models, methods, predictors, jobs and where their results stand."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from dyrate.evaluation.benchmarks import Cut
from dyrate.evaluation.job import SOURCES, cut_of
from dyrate.study.config import (
    DEFAULTS,
    METHOD_KEYS,
    MethodEntry,
    PredictorEntry,
    StudyConfig,
    StudyError,
    check,
    left_out,
    refuse,
)
from dyrate.study.content import content
from dyrate.study.entries import NONE, Method, StudyJob, StudyPredictor
from dyrate.study.model import Model
from dyrate.training_questions.record import is_made


@dataclass(frozen=True)
class Plan:
    """A study as its config has it; whether it can be run is for `checks` and `fit` to say."""

    typed: StudyConfig
    config: Mapping[str, Any]
    """The same as plain values: those that were given, and the defaults of the others."""
    methods: tuple[Method, ...]
    predictors: tuple[StudyPredictor, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str = "config") -> Self:
        """Read a config; raises `StudyError` with a line per problem, naming `source` and key."""
        typed, resolved = left_out(check(config, source), {**DEFAULTS, **config})
        refuse(source, (f"without: leaves no {key}" for key in ("models", "methods") if not resolved[key]))
        methods = zip(typed.methods, resolved["methods"], strict=True)
        predictors = zip(typed.predictors, resolved["predictors"], strict=True)
        return cls(
            typed,
            resolved,
            tuple(_method(typed, entry, given, resolved["decodings"]) for entry, given in methods),
            tuple(
                _predictor(typed, entry, given, model)
                for entry, given in predictors
                for model in typed.models
                if model.name in (entry.models or _checkpoints(typed))
            ),
        )

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.typed.study

    @property
    def tasks(self) -> str:
        """Where the benchmarks come from: testbed, hub, or a folder of task files."""
        return self.typed.tasks

    @property
    def models(self) -> tuple[Model, ...]:
        """Its models, in the config's order."""
        return self.typed.models

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Names of the benchmarks, in the config's order."""
        return self.typed.benchmarks

    @cached_property
    def jobs(self) -> tuple[StudyJob, ...]:
        """Every job, in the order of models, methods and decodings."""
        trained = {(entry.model.name, entry.name): entry for entry in self.predictors}
        return tuple(
            StudyJob(self.name, model, method, decoding, trained.get((model.name, str(method.predictor))))
            for model in self.models
            for method in (self.methods if model.adapter is None else [self._as_it_is(model)])
            if model.name in method.models
            for decoding in method.decodings
        )

    def _as_it_is(self, model: Model) -> Method:
        """How a system behind an lmms-eval adapter is evaluated: once."""
        return Method({"name": NONE}, (model.name,), self.benchmarks, ({"name": "greedy"},), {}, "main")

    @property
    def results(self) -> tuple[str, ...]:
        """Every result file of the study: its jobs', then the external ones."""
        return tuple(job.result for job in self.jobs) + self.typed.external

    @property
    def tasks_content(self) -> str:
        """A hash of the folder that `tasks` names, all its files; the name where it is no folder."""
        if self.tasks in SOURCES:
            return self.tasks
        folder = Path(self.tasks)
        return content(
            sorted(str(path) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        )

    @property
    def data_files(self) -> tuple[str, ...]:
        """What stands for the benchmarks' data: the parquet files that the testbed's rule builds, the records
        of what is fetched from the hub; none for a folder of tasks.
        """
        return self.data_of(self.benchmarks)

    def data_of(self, benchmarks: Iterable[str]) -> tuple[str, ...]:
        """Those of some benchmarks."""
        place = {"testbed": f"{self.typed.data}/{{}}.parquet", "hub": f"{self.hub}/{{}}.json"}.get(self.tasks)
        return tuple(place.format(name) for name in benchmarks) if place else ()

    @property
    def cuts(self) -> dict[str, Cut]:
        """What is asked of the rows of each benchmark."""
        return {name: cut_of(name, self.typed.samples, self.typed.subsets) for name in self.benchmarks}

    @property
    def drawn(self) -> int:
        """How many rows the testbed draws of each benchmark: enough for the one that is asked for most."""
        return max((cut.samples or 0 for cut in self.cuts.values()), default=0)

    @property
    def hub(self) -> str:
        """Folder of the records of what is fetched from there."""
        return f"results/{self.name}/fetched"

    @property
    def trainings(self) -> tuple[StudyPredictor, ...]:
        """The predictors that a rule trains: those that some job runs with and that are not shipped."""
        used = (job.predictor for job in self.jobs if job.predictor and not job.predictor.shipped)
        return tuple({entry.folder: entry for entry in used}.values())

    @cached_property
    def questions(self) -> str | None:
        """The file of training questions that a rule makes; None where no training reads it, or where it is
        the user's own.
        """
        path = f"data/{self.name}/train.jsonl"
        read = any(entry.data == path for entry in self.trainings)
        return path if read and is_made(Path(path)) else None

    def made_questions(self, training: StudyPredictor) -> tuple[str, ...]:
        """The file of `questions`, where a training reads it."""
        return (self.questions,) if self.questions and self.questions == training.data else ()

    def training(self, model: str, name: str) -> StudyPredictor:
        """The predictor of a name on a model; `StudyError` if there is none."""
        for entry in self.predictors:
            if (entry.model.name, entry.name) == (model, name):
                return entry
        raise StudyError(f"study {self.name!r} has no predictor {name!r} on {model!r}")

    def unpruned(self, job: StudyJob) -> StudyJob | None:
        """The job of the same decoding without reduction, on the model that this one is measured against."""
        same = (job.model.against or job.model.name, NONE, job.decoding)
        return next((j for j in self.jobs if (j.model.name, j.method.name, j.decoding) == same), None)


def _checkpoints(typed: StudyConfig) -> tuple[str, ...]:
    """The models that methods and predictors are for, unless they name some."""
    return tuple(model.name for model in typed.models if model.adapter is None)


# `given` is an entry as the config has it: specs keep the order of its keys.
def _method(typed: StudyConfig, entry: MethodEntry, given: Mapping[str, Any], decodings: Any) -> Method:
    return Method(
        spec={key: value for key, value in given.items() if key not in METHOD_KEYS},
        models=entry.models or _checkpoints(typed),
        benchmarks=tuple(name for name in typed.benchmarks if name in (entry.benchmarks or typed.benchmarks)),
        decodings=_decodings(decodings, entry.decodings, typed.seed),
        published=entry.published.model_dump(exclude_none=True),
        group=entry.group,
    )


def _predictor(
    typed: StudyConfig, entry: PredictorEntry, given: Mapping[str, Any], model: Model
) -> StudyPredictor:
    return StudyPredictor(
        study=typed.study,
        model=model,
        name=entry.name,
        recipe={key: value for key, value in given.items() if key not in PredictorEntry.model_fields},
        prepared=f"{typed.trained or f'predictors/{typed.study}'}/{model.name}/{entry.name}",
        data=entry.data or typed.training,
        retrain=bool(typed.retrain),
        origin=entry.origin,
    )


def _decodings(
    listed: list[Mapping[str, Any]], names: tuple[str, ...] | None, seed: int
) -> tuple[Mapping[str, Any], ...]:
    """The config's strategies, or those of the given names, whose settings the config may give.

    The study's seed is that of sampling.
    """
    if names is not None:
        listed = [
            entry
            for name in names
            for entry in [entry for entry in listed if entry["name"] == name] or [{"name": name}]
        ]
    return tuple(
        {"name": entry["name"], "seed": seed, **entry} if entry["name"] == "top_p" else entry
        for entry in listed
    )
