"""Loads the benchmarks as lmms-eval tasks: the local ones, lmms-eval's own, or a folder of task files."""

import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import Benchmark, Cut
from dyrate.evaluation.checkpoint import file_hash
from dyrate.evaluation.checkpoint_files import complaints
from dyrate.evaluation.hub.data import HubData
from dyrate.evaluation.job import SOURCES
from dyrate.evaluation.row_images import check_images, with_images
from dyrate.evaluation.rows import check_rows

_NEEDED = ("dataset_path", "test_split", "output_type", "doc_to_visual", "doc_to_text", "metric_list")


@dataclass(frozen=True)
class LoadedTask:
    """A benchmark's task, cut to the samples asked for."""

    benchmark: Benchmark
    task: Any  # lmms_eval.api.task.ConfigurableTask
    rows: Sequence[int]  # doc_id -> row of the benchmark's data
    data_hash: str
    revision: str | None = None
    """Commit of the data on the hub."""

    @property
    def name(self) -> str:
        """lmms-eval's name of the task."""
        return str(self.task.config.task)


def load_tasks(
    benchmarks: Sequence[Benchmark],
    source: str,
    data: Path | None,
    samples: int | Sequence[Cut] | None,
    primary_only: bool = False,
    failed: dict[str, Exception] | None = None,
) -> list[LoadedTask]:
    """Load each benchmark's task and cut it to about `samples` rows, or each to its cut, units kept whole.

    `primary_only` drops lmms-eval's other metrics: METEOR alone takes longer than a small model's captions.

    `source` is `testbed`, `hub`, or a folder whose task files carry the hub tasks' names. Relative
    `data_files` stand under `data`, or under that folder; of the hub, `data` holds the records of what was
    fetched, and without it what is not there is fetched now. Raises `DyrateError` for a missing task, file,
    or column; where `failed` is given, it takes what is wrong with a benchmark by its name, and the others
    load.
    """
    from lmms_eval.tasks import TaskManager

    folders, root = _folders(benchmarks, source, data)
    with _task_file(source):
        manager = TaskManager(
            "ERROR", include_path=[str(folder) for folder in folders], include_defaults=False
        )
    cuts = samples if isinstance(samples, Sequence) else [Cut(samples)] * len(benchmarks)
    loaded = []
    for benchmark, cut in zip(benchmarks, cuts, strict=True):
        try:
            loaded.append(_load(benchmark, source, root, cut, manager, primary_only))
        except Exception as error:
            if failed is None:
                raise
            failed[benchmark.name] = error
    return loaded


def _task_file(place: str, but: tuple[type[Exception], ...] = ()) -> AbstractContextManager[None]:
    """Refuse what is wrong with a task file, which may name any Python function."""
    return complaints(f"--tasks {place}: not a task file of lmms-eval", but)


def _folders(
    benchmarks: Sequence[Benchmark], source: str, data: Path | None
) -> tuple[list[Path], Path | None]:
    if source == "testbed":
        return [Path(str(resources.files(__package__))) / "tasks"], data or Path("data/testbed")
    if source == "hub":
        import lmms_eval.tasks

        home = Path(lmms_eval.tasks.__file__).parent
        return [home / benchmark.hub_folder for benchmark in benchmarks], data
    folder = Path(source)
    if not folder.is_dir():
        raise DyrateError(f"--tasks {source}: no such folder, and not one of {', '.join(SOURCES)}")
    folder = folder.resolve()  # lmms-eval anchors relative data_files at the folder of their task file
    return [folder], data or folder


def _load(
    benchmark: Benchmark,
    source: str,
    root: Path | None,
    asked: Cut,
    manager: Any,
    primary_only: bool,
) -> LoadedTask:
    from datasets.exceptions import DatasetsError
    from lmms_eval.utils import load_yaml_config
    from tenacity import RetryError

    unreadable = OSError, RetryError, DatasetsError  # no network, no such data set, a damaged file
    if source == "testbed" and not benchmark.testbed:
        raise DyrateError(
            f"--tasks testbed: it has no rows of {benchmark.title} ({benchmark.name}); the hub has"
        )
    name = benchmark.testbed_task if source == "testbed" else benchmark.hub_task
    if name not in manager.task_index:
        raise DyrateError(
            f"--tasks {source}: no task file defines {name!r}, the task of benchmark {benchmark.name}"
        )
    path = manager.task_index[name]["yaml_path"]
    with _task_file(path):
        config = load_yaml_config(path, mode="full")
        if missing := [key for key in _NEEDED if not config.get(key)]:
            raise DyrateError(
                f"--tasks {path}: task {name} has no {missing[0]}; it needs {', '.join(_NEEDED)}"
            )
    hub = HubData.of(benchmark, config, root) if source == "hub" else None
    files = {} if hub else _data_files(config, root, source)
    place = f"task {name} ({files.get(config['test_split']) or config['dataset_path']})"
    inner = hub.process if hub else config.get("process_docs")
    cut = _Process(benchmark, asked, inner, place, drawn=source != "testbed")
    override: dict[str, Any] = {"task": name, "process_docs": cut}
    if given := config.get("dataset_kwargs"):
        override["dataset_kwargs"] = _with_or_without_login(given)
    if hub:
        override |= hub.override
    elif files:
        override["dataset_kwargs"] |= {"data_files": files}
    if callable(score := config.get("process_results")):
        override["process_results"] = _drawing_the_same(score)
    if benchmark.group == "reasoning":
        override["auto_strip_thinking"] = True
    if primary_only and benchmark.primary.harness:
        chosen = [entry for entry in config["metric_list"] if entry["metric"] in benchmark.primary.harness]
        override["metric_list"] = chosen
    if benchmark.hub_new_tokens and source != "testbed":
        tokens = {"max_new_tokens": benchmark.hub_new_tokens}
        override["generation_kwargs"] = {**tokens, **(config.get("generation_kwargs") or {})}
    try:
        with _task_file(path, but=unreadable), _impatient():
            task = manager.load_config(override)[name]
    except unreadable as error:
        raise DyrateError(f"{place}: the data cannot be read: {_with_cure(_reason(error))}") from error
    if hub:
        return LoadedTask(benchmark, task, cut.rows, hub.hash, hub.fetched["commit"])
    data_hash = file_hash(Path(files[config["test_split"]])) if files else cut.fingerprint
    return LoadedTask(benchmark, task, cut.rows, data_hash)


@contextmanager
def _impatient() -> Iterator[None]:
    """Let lmms-eval, which tries five times to read the data, give up where no attempt can go better."""
    from datasets.exceptions import DatasetGenerationError
    from lmms_eval.api.task import ConfigurableTask
    from tenacity import retry_if_not_exception_type

    hopeless = retry_if_not_exception_type((DyrateError, DatasetGenerationError, LookupError, TypeError))
    with patch.object(ConfigurableTask.download.retry, "retry", hopeless):
        yield


def _reason(error: BaseException) -> str:
    """The first line of what lies behind an error of `tenacity` or `datasets`."""
    from tenacity import RetryError

    if isinstance(error, RetryError):
        error = error.last_attempt.exception() or error
    return (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]


def _with_or_without_login(given: Mapping[str, Any]) -> dict[str, Any]:
    """What lmms-eval hands to `load_dataset` but `token: True`, which insists on a login for public data.

    Without a word of it, a login is used where there is one.
    """
    return {key: value for key, value in given.items() if (key, value) != ("token", True)}


@contextmanager
def _loading_as_anybody(function: Any) -> Iterator[None]:
    """The same for what a task's own function loads: GQA's images are another data set."""
    names = getattr(function, "__globals__", {})
    load = names.get("load_dataset")
    if load is None:
        yield
        return
    loading = {"load_dataset": lambda *args, **given: load(*args, **_with_or_without_login(given))}
    with patch.dict(names, loading):
        yield


def _with_cure(reason: str) -> str:
    """What the hub says, and what to do where it does not know who asks."""
    if not re.search(r"gated|authenticat|\b(401|403)\b|Unauthorized|Forbidden|HF_TOKEN", reason):
        return reason
    return (
        f"{reason} (the hub wants to know who asks: accept the conditions on the data's page, then log in by "
        "`hf auth login`, or set HF_TOKEN)"
    )


def _data_files(config: Mapping[str, Any], root: Path | None, source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for split, name in ((config.get("dataset_kwargs") or {}).get("data_files") or {}).items():
        path = (root or Path()) / name
        if not path.is_file():
            cure = "`dyrate testbed build` makes it, or see --data" if source == "testbed" else "see --data"
            raise DyrateError(f"{path}: no such file (data of task {config['task']}); {cure}")
        found[split] = str(path)
    return found


class _Process:
    """lmms-eval's `process_docs`: checks the rows, chooses some, and runs the task's own on them."""

    def __init__(self, benchmark: Benchmark, cut: Cut, inner: Any, place: str, drawn: bool) -> None:
        self._benchmark, self._cut, self._inner, self._place = benchmark, cut, inner, place
        self._drawn = drawn
        """Whether a sample is drawn: the testbed's rows are drawn already."""
        self.rows: Sequence[int] = ()
        self.fingerprint = ""

    def __call__(self, dataset: Any) -> Any:
        self.fingerprint = str(dataset._fingerprint)
        check_rows(self._benchmark, dataset, self._place)
        self.rows = choose_rows(
            self._benchmark, dataset, self._cut.samples, self._subset(dataset), self._drawn
        )
        if len(self.rows) < len(dataset):
            dataset = dataset.select(self.rows)
        if self._inner:
            with _loading_as_anybody(self._inner):
                dataset = self._inner(dataset)
        dataset = with_images(self._benchmark, dataset)
        check_images(self._benchmark, dataset, self.rows, self._place)
        return dataset

    def _subset(self, dataset: Any) -> Sequence[int] | None:
        subset = self._benchmark.subset(self._cut.subset)
        if subset is None:
            return None
        if subset.column not in dataset.column_names:
            raise DyrateError(
                f"{self._place}: has no column {subset.column!r}, which says what is {subset.name}: "
                "ask for all rows"
            )
        rows = [row for row, value in enumerate(dataset[subset.column]) if value == subset.value]
        if not rows:
            raise DyrateError(
                f"{self._place}: no row has {subset.value!r} in {subset.column!r} ({subset.name})"
            )
        return rows


def _drawing_the_same(score: Any) -> Any:
    """A task's `process_results`, which may draw a letter for an answer that has none: by what is answered to
    what, so that the rows before have no say, and equal answers of two methods are equally right.
    """

    @wraps(score)
    def scored(row: Any, results: Any, *more: Any, **given: Any) -> Any:
        before = random.getstate()
        random.seed(f"{row.get('question')} {results}")
        try:
            return score(row, results, *more, **given)
        finally:
            random.setstate(before)

    return scored


def choose_rows(
    benchmark: Benchmark,
    dataset: Any,
    samples: int | None,
    among: Sequence[int] | None = None,
    drawn: bool = False,
) -> Sequence[int]:
    """The rows that a limit of `samples` leaves, of all or `among` some, ascending.

    Whole units only, so a few rows more where the limit falls inside one; taken in turn from the strata where
    there are some. They are the first ones, or `drawn`: at random, the same ones each time, and with a
    smaller limit some of those with a larger one. Intervals hold for drawn rows alone: those that stand first
    in a file may be of a kind.
    """
    rows = range(len(dataset)) if among is None else among
    if samples is None or samples >= len(rows):
        return rows
    if drawn:
        rows = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    if benchmark.unit is None:
        return sorted(rows[:samples])
    columns = [name for name in (benchmark.unit, benchmark.stratum) if name]
    if missing := [name for name in columns if name not in dataset.column_names]:
        raise DyrateError(f"the data of {benchmark.name} has no column {missing[0]!r}")
    keys = dataset[benchmark.unit]
    strata = dataset[benchmark.stratum] if benchmark.stratum else [""] * len(dataset)
    units: dict[tuple[Any, Any], list[int]] = {}
    for row in rows:
        key = keys[row] % benchmark.modulo if benchmark.modulo else keys[row]
        units.setdefault((strata[row], key), []).append(row)
    turns: dict[Any, int] = {}
    order = []
    for place, ((stratum, _), members) in enumerate(units.items()):
        turns[stratum] = turns.get(stratum, -1) + 1
        order.append((turns[stratum], place, members))
    chosen: list[int] = []
    for _, _, members in sorted(order):
        if len(chosen) >= samples:
            break
        chosen += members
    return sorted(chosen)


@contextmanager
def harness_arguments() -> Iterator[SimpleNamespace]:
    """The command line that lmms-eval's tasks look at: no media in scoring, submission files to nowhere."""
    with tempfile.TemporaryDirectory(prefix="dyrate-submissions-") as folder:
        yield SimpleNamespace(output_path=folder, process_with_media=False)
