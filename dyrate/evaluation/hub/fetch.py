"""Brings a model, or what a benchmark needs of its data set, into the hub's cache: once, and no more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dyrate.evaluation.benchmarks import BENCHMARKS, Benchmark
from dyrate.evaluation.checkpoint import FILES, cached_hash
from dyrate.evaluation.harness_adapters import PICKLED
from dyrate.evaluation.hub import record
from dyrate.evaluation.hub.job import Fetch
from dyrate.evaluation.hub.record import SCHEMA, Fetched, Part
from dyrate.evaluation.hub.repository import RemoteFile, Repository, Split
from dyrate.evaluation.hub.trouble import HubError

# Its questions and its images are two configurations, which lmms-eval's task joins by itself.
_IMAGES = {"gqa": Split("testdev_balanced_images", "testdev")}


@dataclass(frozen=True)
class Wanted:
    """What is needed of a commit: files by split, or of a model all together."""

    repository: Repository
    commit: str
    parts: Sequence[tuple[Split | None, Sequence[RemoteFile]]]
    licence: str | None
    """As its card says."""
    rows: int | None = None
    """Of the first part, where the data set's card says it."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for _, files in self.parts for file in files)

    @property
    def missing(self) -> int:
        """Bytes that are not in the cache yet."""
        return sum(file.size for _, files in self.parts for file in files if not self._is_cached(file))

    def _is_cached(self, file: RemoteFile) -> bool:
        try:
            self.repository.cached(self.commit, file.path, file.size)
        except HubError:
            return False
        return True

    def fetch(self) -> Fetched:
        """Download what is not there; returns the record. Raises `HubError` for what does not come."""
        parts = [self._part(split, files) for split, files in self.parts]
        if self.repository.kind == "model":
            self.repository.point_to(self.commit)
        return {
            "schema": SCHEMA,
            "version": 1,
            "kind": self.repository.kind,
            "name": self.repository.name,
            "commit": self.commit,
            "parts": parts,
        }

    def _part(self, split: Split | None, files: Sequence[RemoteFile]) -> Part:
        bar = tqdm(files, desc=f"{self.repository.name} {split or ''}".strip(), unit="file", mininterval=1)
        found: Part = {"files": []}
        for file in bar:
            path = self.repository.download(self.commit, file)
            found["files"].append({"path": file.path, "size": file.size, "sha256": cached_hash(path)})
        if split is not None:
            found |= {"split": split.name, "config": split.config}
        return found


def splits(benchmark: Benchmark, config: Mapping[str, Any]) -> list[Split]:
    """The splits that a benchmark is read from, by its task's config: the rows, then their images."""
    main = Split(config.get("dataset_name") or None, str(config["test_split"]))
    return [main, *([_IMAGES[benchmark.name]] if benchmark.name in _IMAGES else [])]


def wanted_data(benchmark: Benchmark, config: Mapping[str, Any], revision: str | None = None) -> Wanted:
    """What a benchmark needs of the data set that its task's config names; asks the hub."""
    repository = Repository("dataset", str(config["dataset_path"]), revision)
    commit, licence = repository.look()
    tree, parts, rows = repository.files(commit), [], None
    for split in splits(benchmark, config):
        paths, count = repository.split(commit, split)
        rows = count if rows is None else rows
        parts.append((split, [_known(repository, tree, path) for path in paths]))
    return Wanted(repository, commit, parts, licence, rows)


def wanted_model(name: str, revision: str | None = None, whole: bool = False) -> Wanted:
    """The files that a checkpoint consists of; with `whole` all, but pickled weights where there are others.

    Raises a `HubError` for a checkpoint without safetensors.
    """
    repository = Repository("model", name, revision)
    commit, licence = repository.look()
    tree = repository.files(commit)
    safe = any(fnmatch(path, "*.safetensors") for path in tree)
    if not safe and not whole:
        raise HubError(str(repository), "has no *.safetensors", "pickled weights are not loaded: convert it")
    chosen = [path for path in tree if _wanted(path, FILES)] if not whole else [*tree]
    if whole and safe:
        chosen = [path for path in tree if not _wanted(path, PICKLED)]
    return Wanted(repository, commit, [(None, [tree[path] for path in chosen])], licence)


def _wanted(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def _known(repository: Repository, tree: Mapping[str, RemoteFile], path: str) -> RemoteFile:
    if path not in tree:
        raise HubError(
            f"{repository}: {path}", "is in its card, but not among its files", f"see {repository.page}"
        )
    return tree[path]


def existing(job: Fetch) -> Fetched | None:
    """The record that is there already, if it is of what is asked for, and all its files are in the cache."""
    if not job.output.is_file() or record.absence(job.output) is not None:
        return None
    found = record.read(job.output)
    name = job.model or task_config(BENCHMARKS[str(job.benchmark)])["dataset_path"]
    if found["name"] != name or job.revision not in (None, found["commit"]):
        return None
    try:
        record.complete(found)
    except HubError:
        return None
    return found


def wanted(job: Fetch) -> Wanted:
    """What the hub has of what is asked for."""
    if job.model is not None:
        return wanted_model(job.model, job.revision, job.whole)
    benchmark = BENCHMARKS[str(job.benchmark)]
    return wanted_data(benchmark, task_config(benchmark), job.revision)


@cache
def task_config(benchmark: Benchmark) -> Mapping[str, Any]:
    """The config of a benchmark's task on the hub, from lmms-eval's file; functions are not looked up."""
    from lmms_eval.utils import load_yaml_config

    spec = find_spec("lmms_eval.tasks")
    assert spec is not None, "lmms_eval has been imported"
    folder = Path(spec.origin or "").parent / benchmark.hub_folder
    path = next(path for path in folder.rglob("*.yaml") if path.stem == benchmark.hub_task)
    config: dict[str, Any] = load_yaml_config(str(path), mode="simple")
    return config
