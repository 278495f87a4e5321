"""A study: its config file read and checked, its jobs listed, and where each result stands.

Torch-free, so that Snakemake parses in a second; how a job is evaluated is `dyrate.evaluation`'s business.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self, cast

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from dyrate import registry
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.decoding import decoding_slug, decoding_spec
from dyrate.evaluation.provenance import result_code
from dyrate.fingerprint import fingerprint
from dyrate.report import published

SCHEMA_FILE = Path(__file__).with_name("study.schema.yaml")
SOURCES = ("testbed", "hub")
NONE = "none"


class StudyError(DyrateError):
    """A study's config names something that does not exist, or twice, or in the wrong type."""


@dataclass(frozen=True)
class Model:
    """A checkpoint (folder or hub id) under the name that the tables print."""

    name: str
    path: str
    published: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Weights and settings of a local checkpoint, as paths; none for a hub id."""
        folder = Path(self.path)
        found = [*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.jinja")]
        return tuple(sorted(str(path) for path in found))

    @property
    def content(self) -> str:
        """A hash of a local checkpoint's files (times do not matter), or the hub id."""
        return _content(self.files) if self.files else self.path

    @property
    def missing(self) -> bool:
        """Whether the path can only mean a folder, and there is none: `owner/name` may be a hub id."""
        path = Path(self.path)
        local = self.path.startswith((".", "~", "/")) or self.path.count("/") > 1
        return not path.is_dir() and (local or Path(path.parts[0]).is_dir())


@dataclass(frozen=True)
class Method:
    """One `methods:` entry: the method's own spec, and what the study says about it."""

    spec: Mapping[str, Any]
    models: tuple[str, ...]
    published: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name, or path/to/file.py:Class, as the config writes it."""
        return str(self.spec["name"])

    @cached_property
    def slug(self) -> str:
        """The method's folder name: its name and hyperparameters."""
        return registry.slug(self.spec)


@dataclass(frozen=True)
class Job:
    """One evaluation: a model with a method under a decoding strategy, on all benchmarks of the study."""

    study: str
    model: Model
    method: Method
    decoding: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        """Model, method and decoding strategy, as the job's path and the rule's wildcards name them."""
        return self.model.name, self.method.slug, decoding_slug(self.decoding)

    @property
    def stem(self) -> str:
        """Path of the job's files, without suffix."""
        return "/".join(("results", self.study, *self.key))

    @property
    def result(self) -> str:
        """Path of the result JSON."""
        return f"{self.stem}.json"


@dataclass(frozen=True)
class Study:
    """A checked study config; `config` is the resolved mapping, defaults filled in."""

    config: Mapping[str, Any]
    models: tuple[Model, ...]
    methods: tuple[Method, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str = "config") -> Self:
        """Check a config mapping; raises `StudyError` with a line per problem, naming `source` and key."""
        _refuse(source, _schema_problems(config))
        defaults = {
            key: rule["default"] for key, rule in _schema()["properties"].items() if "default" in rule
        }
        resolved = {**defaults, **config}
        models = tuple(Model(**entry) for entry in resolved["models"])
        names = tuple(model.name for model in models)
        methods = tuple(_method(entry, names) for entry in resolved["methods"])
        study = cls(resolved, models, methods)
        _refuse(source, study._problems())
        return study

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a study from a YAML or JSON file."""
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StudyError(f"no study config at {path}; try config/testbed.yaml") from None
        except OSError as error:
            raise StudyError(f"{path} cannot be read as a study config: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StudyError(f"{path} is not YAML: {error}") from None
        if not isinstance(config, dict):
            raise StudyError(f"{path} holds a {type(config).__name__}, not a mapping of keys such as 'study'")
        return cls.of(config, str(path))

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
    def external(self) -> tuple[str, ...]:
        """Result files that other producers write."""
        return tuple(self.config["external"])

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Every job, in the order of models, methods and decodings."""
        return tuple(
            Job(self.name, model, method, decoding)
            for model in self.models
            for method in self.methods
            if model.name in method.models
            for decoding in self._decodings
        )

    @property
    def results(self) -> tuple[str, ...]:
        """Every result file of the study: its jobs', then the external ones."""
        return tuple(job.result for job in self.jobs) + self.external

    @property
    def _decodings(self) -> list[Mapping[str, Any]]:
        """The config's strategies; the study's seed is that of sampling."""
        sampling = {"seed": self.config["seed"]}
        return [
            {"name": entry["name"], **sampling, **entry} if entry["name"] == "top_p" else entry
            for entry in self.config["decodings"]
        ]

    @property
    def tasks_content(self) -> str:
        """A hash of the folder that `tasks` names, all its files; the name where it is no folder."""
        if self.tasks in SOURCES:
            return self.tasks
        folder = Path(self.tasks)
        found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return _content(sorted(str(path) for path in found))

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

    def job(self, model: str, slug: str, decoding: str) -> Job:
        """The job of results/<study>/<model>/<slug>/<decoding>.json; `StudyError` if there is none."""
        key = (model, slug, decoding)
        for job in self.jobs:
            if job.key == key:
                return job
        raise StudyError(f"study {self.name!r} has no job {'/'.join(key)}")

    def baseline(self, job: Job) -> str | None:
        """The unpruned result that a job is compared with (same model, same decoding); None for `none`."""
        if job.method.name == NONE:
            return None
        for other in self.jobs:
            if (other.model, other.method.name, other.decoding) == (job.model, NONE, job.decoding):
                return other.result
        return None

    def arguments(self, job: Job) -> list[str]:
        """What a job's `dyrate evaluate` is called with; CPU threads are the workflow's to add."""
        config = self.config
        folder = job.result.rpartition("/")[0]
        options = {
            "--study": self.name,
            "--model": job.model.path,
            "--model-name": job.model.name,
            "--method": json.dumps(job.method.spec),
            "--decoding": json.dumps(job.decoding),
            "--tasks": self.tasks,
            "--data": config["data"] if self.tasks == "testbed" else None,
            "--samples": config["samples"],
            "--batch-size": config["batch_size"],
            "--device": config["device"],
            "--dtype": config["dtype"],
            "--seed": config["seed"],
            "--baseline": self.baseline(job),
            "--output": folder,
        }
        given = [part for key, value in options.items() if value is not None for part in (key, str(value))]
        return ["--benchmarks", *self.benchmarks, *given]

    def code(self, job: Job) -> str:
        """A hash of the code that a job runs: the evaluation's and the method's, no other method's."""
        return f"{fingerprint(['dyrate.evaluation.commands'])}-{result_code(job.method.spec)}"

    def check_jobs(self) -> None:
        """Look up the models and load the methods that have results to make, before any job runs.

        Raises `DyrateError` for a folder that is not there and for a wrong field. Needs torch where there is
        something to check, and takes its seconds.
        """
        waiting = [job for job in self.jobs if not Path(job.result).exists()]
        for model in dict.fromkeys(job.model for job in waiting):
            if model.missing:
                raise StudyError(
                    f"models: {model.name}: there is no folder {model.path} (relative to {Path.cwd()})"
                )
        for spec in {job.method.slug: job.method.spec for job in waiting}.values():
            registry.load_method(spec)

    def to_json(self) -> str:
        """The checked config, defaults filled in, as one line of JSON."""
        return json.dumps(self.config, ensure_ascii=False)

    def _problems(self) -> Iterator[str]:
        names = [model.name for model in self.models]
        yield from (f"models: {name!r} is listed twice" for name in _repeated(names))
        for entry, method in zip(self.config["methods"], self.methods, strict=True):
            for name in method.models:
                if name not in names:
                    yield f"methods: {entry}: {name!r} is no model of the study{_meant(name, names)}"
        for method in self.methods:
            try:
                registry.module_file(method.spec)
            except DyrateError as error:
                yield f"methods: {error}"
        bases = {name for method in self.methods if method.name == NONE for name in method.models}
        for name in names:
            if name not in bases and any(name in method.models for method in self.methods):
                yield f"methods: no 'none' on {name!r}: its differences are taken from the unpruned model"
        for decoding in self.config["decodings"]:
            try:
                decoding_spec(decoding)
            except DyrateError as error:
                yield f"decodings: {error}"
        yield from self._unprinted()
        if self.tasks == "testbed" and self.config["samples"] is None:
            yield "samples: null takes all, but the testbed draws as many as it is asked for: give a number"
        for name in self.benchmarks:
            if name not in BENCHMARKS:
                yield f"benchmarks: {name!r} is unknown{_meant(name, BENCHMARKS)}"
        if self.tasks not in SOURCES and not Path(self.tasks).is_dir():
            yield f"tasks: {self.tasks!r} is no folder and none of {', '.join(SOURCES)}"
        yield from (f"two jobs would write {path}" for path in _repeated(job.result for job in self.jobs))

    def _unprinted(self) -> Iterator[str]:
        """What stands under `published`, but not in the paper's tables."""
        rows = {
            table: list(dict.fromkeys(row.name for row in printed()))
            for table, printed in (("table1", published.table1), ("table2", published.table2))
        }
        models = list(dict.fromkeys([published.TABLE1_MODEL, *(row.group for row in published.table2())]))
        for method in self.methods:
            for table, row in method.published.items():
                if row not in rows[table]:
                    where = f"methods: {method.slug}: published.{table}"
                    yield f"{where}: no row {row!r}{_meant(row, rows[table])}"
        for model in self.models:
            if model.published is not None and model.published not in models:
                where = f"models: {model.name}: published"
                yield f"{where}: no model {model.published!r}{_meant(model.published, models)}"


def _method(entry: Mapping[str, Any], models: tuple[str, ...]) -> Method:
    spec = {key: value for key, value in entry.items() if key not in ("models", "published")}
    return Method(spec, tuple(entry.get("models", models)), entry.get("published", {}))


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _schema_problems(config: Mapping[str, Any]) -> Iterator[str]:
    errors = Draft202012Validator(_schema()).iter_errors(config)
    for error in sorted(errors, key=lambda error: list(map(str, error.absolute_path))):
        yield from _explain(error)


def _explain(error: ValidationError) -> Iterator[str]:
    where = ".".join(str(step) for step in error.absolute_path)
    rule, value = cast("dict[str, Any]", error.schema), error.instance
    if error.validator == "additionalProperties" and isinstance(value, dict):
        place, known = f"{where}." if where else "", rule["properties"]
        for key in value:
            if key not in known:
                yield f"{place}{key} is no key of a study{_meant(str(key), known)}"
    else:
        yield f"{where or 'the config'}: {error.message}"


def _meant(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _repeated(names: Iterable[str]) -> list[str]:
    names = list(names)
    return sorted({name for name in names if names.count(name) > 1})


def _refuse(source: str, problems: Iterable[str]) -> None:
    lines = list(problems)
    if lines:
        raise StudyError(f"{source}: " + f"\n{source}: ".join(lines))


def _content(files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in map(Path, files):
        digest.update(path.name.encode())
        digest.update(_digest(path, path.stat().st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _digest(path: Path, modified: int) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
