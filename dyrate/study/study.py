"""The study itself: a checked config, and the jobs and trainings that follow from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from dyrate.evaluation.provenance import result_code
from dyrate.fingerprint import fingerprint
from dyrate.study.checks import NONE, SOURCES, problems
from dyrate.study.entries import METHOD_KEYS, Job, Method, Model, Predictor, content
from dyrate.study.fit import check_jobs
from dyrate.study.reading import StudyError, read_config
from dyrate.study.schema import defaults, refuse, shape_problems
from dyrate.study.sweeps import Sweep, share_out

# What a a `predictors:` entry says of its place in the study; everything else is its recipe.
PREDICTOR_KEYS = ("name", "models", "data")


@dataclass(frozen=True)
class Study:
    """A checked study config; `config` is the resolved mapping, defaults filled in."""

    config: Mapping[str, Any]
    models: tuple[Model, ...]
    methods: tuple[Method, ...]
    predictors: tuple[Predictor, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str = "config") -> Self:
        """Check a config mapping; raises `StudyError` with a line per problem, naming `source` and key."""
        refuse(source, shape_problems(config))
        resolved = {**defaults(), **config}
        models = tuple(Model(**entry) for entry in resolved["models"])
        study = cls(
            resolved,
            models,
            tuple(_method(entry, resolved) for entry in resolved["methods"]),
            tuple(
                _predictor(entry, model, resolved)
                for entry in resolved["predictors"]
                for model in models
                if model.name in entry.get("models", (model.name,))
            ),
        )
        refuse(source, problems(study))
        return study

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a study from a YAML or JSON file; a `StudyError` for one that is none."""
        return cls.of(read_config(path), str(path))

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.config["study"])

    @property
    def tasks(self) -> str:
        """Where the benchmarks come from: testbed, hub, or a folder of task files."""
        return str(self.config["tasks"])

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Names of the benchmarks, in the config's order."""
        return tuple(self.config["benchmarks"])

    @property
    def decodings(self) -> tuple[Mapping[str, Any], ...]:
        """The strategies of the methods that name none of their own."""
        return _decodings(self.config)

    @property
    def external(self) -> tuple[str, ...]:
        """Result files that other producers write."""
        return tuple(self.config["external"])

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Every job, in the order of models, methods and decodings."""
        trained = {(entry.model.name, entry.name): entry for entry in self.predictors}
        return tuple(
            Job(self.name, model, method, decoding, trained.get((model.name, str(method.predictor))))
            for model in self.models
            for method in self.methods
            if model.name in method.models
            for decoding in method.decodings
        )

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """Every job, shared out to processes."""
        return share_out(self.jobs, self.config["sweep"])

    @property
    def results(self) -> tuple[str, ...]:
        """Every result file of the study: its jobs', then the external ones."""
        return tuple(job.result for job in self.jobs) + self.external

    @property
    def tasks_content(self) -> str:
        """A hash of the folder that `tasks` names, all its files; the name where it is no folder."""
        if self.tasks in SOURCES:
            return self.tasks
        folder = Path(self.tasks)
        found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return content(sorted(str(path) for path in found))

    @cached_property
    def gpus(self) -> int:
        """How many GPUs a job asks Snakemake for: as the config says, else one where its device is a GPU."""
        if "gpu" in self.config["resources"]:
            return int(self.config["resources"]["gpu"])
        if self.config["device"] != "auto":
            return int(self.config["device"] != "cpu")
        import torch  # takes seconds, so only where a job asks

        return int(torch.cuda.is_available())

    @property
    def data_files(self) -> tuple[str, ...]:
        """The parquet files that the testbed's rule builds; none for other sources."""
        if self.tasks != "testbed":
            return ()
        return tuple(f"{self.config['data']}/{name}.parquet" for name in self.benchmarks)

    @property
    def trainings(self) -> tuple[Predictor, ...]:
        """The predictors that a rule trains: those that some job runs with and that are not shipped."""
        used = (job.predictor for job in self.jobs if job.predictor and not job.predictor.shipped)
        return tuple({entry.folder: entry for entry in used}.values())

    def job(self, model: str, slug: str, decoding: str) -> Job:
        """The job of results/<study>/<model>/<slug>/<decoding>.json; `StudyError` if there is none."""
        key = (model, slug, decoding)
        for job in self.jobs:
            if job.key == key:
                return job
        raise StudyError(f"study {self.name!r} has no job {'/'.join(key)}")

    def training(self, model: str, name: str) -> Predictor:
        """The predictor of a name on a model; `StudyError` if there is none."""
        for entry in self.predictors:
            if (entry.model.name, entry.name) == (model, name):
                return entry
        raise StudyError(f"study {self.name!r} has no predictor {name!r} on {model!r}")

    def unpruned(self, job: Job) -> Job | None:
        """The job of the same model and decoding without reduction: itself, if it is of `none`."""
        same = (job.model, NONE, job.decoding)
        return next((j for j in self.jobs if (j.model, j.method.name, j.decoding) == same), None)

    def baseline(self, job: Job) -> str | None:
        """The unpruned result that a job is compared with (same model, same decoding); None for `none`."""
        base = self.unpruned(job)
        return None if job.method.name == NONE or base is None else base.result

    def baselines(self, sweep: Sweep) -> tuple[str, ...]:
        """The results of other sweeps that one needs."""
        return tuple(dict.fromkeys(base for job in sweep.jobs if (base := self.baseline(job))))

    def share(self, sweep: Sweep) -> float:
        """A sweep's part of the study's work, roughly: models are listed from the smallest on."""
        work = [one.benchmarks * (1 + self.models.index(one.model)) for one in self.sweeps]
        return work[self.sweeps.index(sweep)] / sum(work)

    def sweep_arguments(self, sweep: Sweep) -> list[str]:
        """What a sweep's `dyrate evaluate` is called with; the workflow puts CPU threads in front."""
        first, *others = map(self.arguments, sweep.jobs)
        return [*first, *(part for other in others for part in ("--then", *other))]

    def arguments(self, job: Job) -> list[str]:
        """What a job's own `dyrate evaluate` would be called with."""
        config = self.config
        folder = job.result.rpartition("/")[0]
        options = {
            "--study": self.name,
            "--model": job.model.path,
            "--model-name": job.model.name,
            "--method": json.dumps(job.spec),
            "--decoding": json.dumps(job.decoding),
            "--tasks": self.tasks,
            "--data": config["data"] if self.tasks == "testbed" else None,
            "--samples": config["samples"],
            "--batch-size": config["batch_size"],
            "--device": config["device"],
            "--dtype": config["dtype"],
            "--engine": config["engine"],
            "--seed": config["seed"],
            "--baseline": self.baseline(job),
            "--metrics": None if config["metrics"] == "all" else config["metrics"],
            "--output": folder,
        }
        return ["--benchmarks", *job.method.benchmarks, *_given(options)]

    def training_arguments(self, predictor: Predictor) -> list[str]:
        """What a predictor's `dyrate train-predictor` is called with, but for the CPU threads."""
        options = {
            "--model": predictor.model.path,
            "--recipe": json.dumps(predictor.recipe),
            "--data": predictor.data,
            "--device": self.config["device"],
            # In float16 the gates of training have no gradient.
            "--dtype": "bfloat16" if self.config["dtype"] == "float16" else self.config["dtype"],
            "--output": predictor.folder,
        }
        return _given(options)

    def code(self, job: Job) -> str:
        """A hash of the code that a job runs: the evaluation's and the method's, no other method's."""
        return f"{fingerprint(['dyrate.evaluation.commands'])}-{result_code(job.method.spec)}"

    def check_jobs(self) -> None:
        """Check what has results to make, before any job runs; see `dyrate.study.fit`."""
        check_jobs(self)

    def to_json(self) -> str:
        """The checked config, defaults filled in, as one line of JSON."""
        return json.dumps(self.config, ensure_ascii=False)


def _method(entry: Mapping[str, Any], config: Mapping[str, Any]) -> Method:
    return Method(
        spec={key: value for key, value in entry.items() if key not in METHOD_KEYS},
        models=tuple(entry.get("models", (model["name"] for model in config["models"]))),
        benchmarks=tuple(
            name for name in config["benchmarks"] if name in entry.get("benchmarks", config["benchmarks"])
        ),
        decodings=_decodings(config, entry.get("decodings")),
        published=entry.get("published", {}),
        group=entry.get("group", "main"),
    )


def _predictor(entry: Mapping[str, Any], model: Model, config: Mapping[str, Any]) -> Predictor:
    return Predictor(
        study=config["study"],
        model=model,
        name=entry["name"],
        recipe={key: value for key, value in entry.items() if key not in PREDICTOR_KEYS},
        trained=config["trained"] or f"predictors/{config['study']}",
        data=entry.get("data"),
        retrain=bool(config["retrain"]),
    )


def _decodings(config: Mapping[str, Any], names: list[str] | None = None) -> tuple[Mapping[str, Any], ...]:
    """The config's strategies, or those of the given names, whose settings the config may give.

    The study's seed is that of sampling.
    """
    listed: list[Mapping[str, Any]] = config["decodings"]
    if names is not None:
        listed = [
            entry
            for name in names
            for entry in [entry for entry in listed if entry["name"] == name] or [{"name": name}]
        ]
    sampling = {"seed": config["seed"]}
    return tuple(
        {"name": entry["name"], **sampling, **entry} if entry["name"] == "top_p" else entry
        for entry in listed
    )


def _given(options: Mapping[str, Any]) -> list[str]:
    return [part for key, value in options.items() if value is not None for part in (key, str(value))]
