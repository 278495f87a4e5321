"""What was measured: result files with their run information, and the budget and evidence in them."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from dyrate.analysis import external, reasons
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.decoding import decoding_slug, decoding_spec
from dyrate.evaluation.results import (
    SCHEMA,
    VERSION,
    BenchmarkResult,
    Difference,
    Meta,
    Result,
    ResultError,
    ResultFiles,
    RunInformation,
    Score,
    read,
    read_run,
)
from dyrate.predictor_training.recipe import Recipe
from dyrate.study import Study, StudyJob
from dyrate.typed import Origin

NONE = "none"
CONTROLS = frozenset({"random", "uniform", "text_only", "downsample"})


@dataclass(frozen=True, eq=False)
class Measurement:
    """One result file; `run` is None without run information, `job` where no job of the study made it."""

    files: ResultFiles
    result: Result
    run: RunInformation | None
    job: StudyJob | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why there is nothing, by benchmark; of a job without a result all of its benchmarks."""
    uncompared: dict[str, str] = field(default_factory=dict)
    """Why there is no difference to the unpruned model, though both were measured, by benchmark."""

    @property
    def measured(self) -> bool:
        """Whether there is anything: else it holds the place of a job without a result."""
        return bool(self.result["benchmarks"])

    @property
    def key(self) -> str:
        """A short name for links, safe in HTML ids: a hash of where the result stands."""
        return hashlib.sha256(self.files.result.as_posix().encode()).hexdigest()[:10]

    @property
    def model(self) -> str:
        """The model's name in the study."""
        return self.result["model"]

    @property
    def method(self) -> str:
        """The method's registered name (or path/to/file.py:Class)."""
        return str(self.result["method"]["name"])

    @property
    def label(self) -> str:
        """The method with its hyperparameters, as people write it."""
        return self.result["label"]

    @property
    def title(self) -> str:
        """The label, and on a model that is measured against another the model: a connector that was trained
        here is not the published system whose idea it is.
        """
        if self.against is None:
            return self.label
        model = f"{self.model} (trained here)" if self.compressor else self.model
        return model if self.method == NONE else f"{self.label} on {model}"

    @property
    def compressor(self) -> str | None:
        """A hash of the weights of a trained connector that stands in its checkpoint's place."""
        connector = self.result["meta"].get("connector")
        return connector["sha256"] if connector else None

    @property
    def origin(self) -> Origin | None:
        """Of DyRate, its ablations and its extensions: whether the paper describes it."""
        return self.result.get("origin")

    @property
    def decoding(self) -> str:
        """The decoding strategy, with what it sets otherwise than by default."""
        return decoding_slug(self.result["decoding"])

    @property
    def group(self) -> str:
        """The tables that it belongs to: the study says so, and of other producers' it is `main`."""
        return self.job.method.group if self.job else "main"

    @property
    def predicts_rate(self) -> bool:
        """Whether a trained predictor sets the rate, from the attention of the step at hand."""
        spec = self.result["method"]
        return "predictor" in spec and spec.get("rates", "predicted") == "predicted"

    @property
    def replays(self) -> bool:
        """Whether a predictor's mean rates are replayed: a control of what it does with the input."""
        return self.result["method"].get("rates") == "schedule"

    @property
    def system(self) -> bool:
        """Whether it is of another system, asked by one of lmms-eval's adapters."""
        return "adapter" in self.result["meta"]

    @property
    def against(self) -> str | None:
        """The other model of whose unpruned answers it is a part, or less: of a compressor, say."""
        return self.job.model.against if self.job else None

    @property
    def reference(self) -> str:
        """The model whose unpruned answers its own are compared with."""
        return self.against or self.model

    @property
    def kind(self) -> str:
        """The method, or what stands for one: a connector, or a model that is measured against another."""
        return (self.compressor or self.model) if self.against and self.method == NONE else self.method

    @property
    def control(self) -> bool:
        """Whether the method only shows what a budget or an image is worth."""
        return self.method in CONTROLS

    def benchmark(self, name: str) -> BenchmarkResult | None:
        """What was measured on a benchmark, if anything."""
        return self.result["benchmarks"].get(name)


@dataclass(frozen=True)
class Budget:
    """Visual tokens per layer as shares of V, at prefill and at decode; None where nobody counted."""

    prefill: float | None
    decode: float | None


def load(study: Study, failed: bool = False) -> tuple[Measurement, ...]:
    """Read a study's result files and, where present, the run information beside them.

    A job without a result has a measurement that says why, and one with a partial result says so of what is
    missing. Where anything is missing, or jobs have `failed`, only results that the study would make now are
    taken: others would be replaced if all jobs had run.

    Raises `ResultError` for a result that is not the one of its place (of another study, job or kind of
    tasks) and for one of another producer with what nobody can have measured: its figures would be shown as
    what they are not.
    """
    jobs = {job.result: job for job in study.jobs}
    whole = not failed and all(
        Path(path).exists() and not reasons.untrained(study, job) for path, job in jobs.items()
    )
    measurements = tuple(
        _load(ResultFiles.beside(Path(path)), jobs.get(path))
        if whole or path not in jobs
        else _what_there_is(study, jobs[path])
        for path in study.results
    )
    labels = {m.job.method.slug: m.label for m in measurements if m.job and m.measured and not m.system}
    for m in measurements:
        if m.job and not m.measured and not m.system:
            m.result["label"] = labels.get(m.job.method.slug, m.label)
    if lines := [line for m in measurements if m.measured for line in _misplaced(m, study)]:
        raise ResultError("\n".join(lines))
    ours = [m.result for m in measurements if m.job and m.measured]
    theirs = [(str(m.files.result), m.result) for m in measurements if not m.job]
    if lines := list(external.problems(theirs, ours)):
        raise ResultError("\n".join(lines))
    return measurements


def _misplaced(m: Measurement, study: Study) -> Iterator[str]:
    path = m.files.result
    if m.result["study"] != study.name:
        yield f"{path}: study: is {m.result['study']!r}, but the study that lists it is {study.name!r}"
    for name, measured in m.result["benchmarks"].items():
        known = BENCHMARKS.get(name)
        foreign = known and (known.hub_task if study.tasks == "testbed" else known.testbed_task)
        if measured["task"] == foreign:
            yield (
                f"{path}: benchmarks.{name}.task: {foreign!r} has other data than "
                f"study {study.name!r}, whose tasks are {study.tasks!r}"
            )
    for what, given, wanted in _job_facts(m.result, m.job) if m.job else ():
        if given != wanted:
            yield (
                f"{path}: {what}: is {given!r}, but this is the place of {wanted!r}: was it copied here? "
                "Delete it, and run the study again"
            )


def _job_facts(result: Result, job: StudyJob) -> Iterator[tuple[str, Any, Any]]:
    """What a result says of its job, and what the job says."""
    yield "model", result["model"], job.model.name
    method, given = result["method"], _asked(result["meta"]["command"])
    yield "method", {key: method.get(key) for key in job.spec}, job.spec
    if given is not None:  # what the job leaves to the method's default may be set otherwise
        yield "method", given, job.spec
    adapter, system = result["meta"].get("adapter"), job.model.system
    asked = system and {"name": system.name, **system.options}
    yield "meta.adapter", adapter and {key: adapter.get(key) for key in asked or adapter}, asked
    yield "decoding", decoding_slug(result["decoding"]), decoding_slug(job.decoding)
    found = [*result["benchmarks"], *result.get("failed", ())]
    yield "benchmarks", sorted(found), sorted(job.method.benchmarks)


def _asked(command: str) -> Any:
    """The method as `dyrate evaluate` was asked for it; None for another command."""
    try:
        words = shlex.split(command)
        return json.loads(words[words.index("--method") + 1])
    except (ValueError, IndexError):
        return None


def source(study: Study, measurements: Iterable[Measurement]) -> Literal["testbed", "hub", "other"]:
    """Where every measured figure comes from, as far as the results' own task names show it."""
    sources = [
        (BENCHMARKS[name], benchmark["task"])
        for m in measurements
        for name, benchmark in m.result["benchmarks"].items()
        if name in BENCHMARKS
    ]
    if study.tasks == "testbed" and all(task == benchmark.testbed_task for benchmark, task in sources):
        return "testbed"
    if study.tasks == "hub" and all(task == benchmark.hub_task for benchmark, task in sources):
        return "hub"
    return "other"


def units(name: str, benchmark: BenchmarkResult) -> int | None:
    """How many independent items a score rests on: samples, pairs or circular questions; None if unknown."""
    whole = BENCHMARKS[name].unit is None
    return benchmark.get("units", benchmark["samples"] if whole else None)


def _load(files: ResultFiles, job: StudyJob | None) -> Measurement:
    result = read(files.result)
    run = read_run(files.run, files.result) if files.run.exists() else None
    return Measurement(files, result, run, job, result.get("failed", {}))


def _what_there_is(study: Study, job: StudyJob) -> Measurement:
    """A job's result, or a part of it, or a measurement of nothing."""
    whole = ResultFiles.beside(Path(job.result))
    reason = reasons.why(study, job)
    for files in (whole, whole.partial):
        if files.result.exists():
            found = _load(files, job)
            old = reasons.outdated(study, job, files.result, found.result)
            if old is None:
                return found
            reason = f"{old}; {reason}"
    system = job.model.system
    asked = study.evaluation(job)
    meta: Meta = {
        "command": asked.command(),
        "seed": asked.seed,
        "device": asked.device,
        "dtype": asked.dtype,
    }
    if system is not None:
        meta["adapter"] = {**system.model_dump(), "class_path": ""}  # type: ignore[typeddict-item]
    nothing: Result = {
        "schema": SCHEMA,
        "version": VERSION,
        "study": study.name,
        "model": job.model.name,
        "method": job.spec,
        "label": _label(job),
        "origin": _origin(job),
        "decoding": decoding_spec(job.decoding),
        "benchmarks": {},
        "meta": meta,
    }
    return Measurement(whole, nothing, None, job, dict.fromkeys(job.method.benchmarks, reason))


def _origin(job: StudyJob) -> Origin | None:
    """Whose its recipe is, which keeps what is ours out of the paper's rows."""
    if job.predictor is None:
        return None
    return Recipe.read(job.predictor.recipe, f"predictors: {job.predictor.name}").config(1).origin


def _label(job: StudyJob) -> str:
    """A method as the config has it; its own label is known where it could be loaded."""
    if job.model.system is not None:
        return job.model.name
    fields = ", ".join(f"{key}={value}" for key, value in job.method.spec.items() if key != "name")
    return f"{job.method.name} ({fields})" if fields else job.method.name


def span(counts: Iterable[int | None]) -> str:
    """Counts as "100" or "25 to 100"; empty where none is known."""
    known = sorted({count for count in counts if count is not None})
    return " to ".join(map(str, dict.fromkeys(known[:1] + known[-1:])))


def primary(benchmark: BenchmarkResult) -> tuple[Score, Difference | None]:
    """The metric that the tables show, and its paired difference to the unpruned model."""
    name = benchmark["primary"]
    return benchmark["scores"][name], (benchmark["difference"] or {}).get(name)


def verdict(
    difference: Difference | None, higher_is_better: bool | None = True
) -> Literal["better", "worse", "open"] | None:
    """Which way the difference's interval excludes zero: 'open' if it does not, None without an interval."""
    if difference is None or difference["low"] is None or difference["high"] is None:
        return None
    if difference["low"] <= 0 <= difference["high"]:
        return "open"
    return "better" if (difference["low"] > 0) == (higher_is_better is not False) else "worse"


def unpruned(measurement: Measurement, among: Iterable[Measurement]) -> Measurement | None:
    """The same decoding without reduction, on the same model or the one that this is measured against."""
    same = (measurement.reference, NONE, measurement.result["decoding"])
    return next((m for m in among if (m.model, m.method, m.result["decoding"]) == same), None)


def relative_difference(
    m: Measurement, benchmark: str, among: Sequence[Measurement]
) -> tuple[float, float, float, bool] | None:
    """In percent of the unpruned score: the paired difference, its interval, and whether that excludes zero.

    None where one is missing.
    """
    mine, reference = m.benchmark(benchmark), unpruned(m, among)
    whole = reference.benchmark(benchmark) if reference else None
    if m.kind == NONE or mine is None or whole is None:
        return None
    difference = primary(mine)[1]
    scale = primary(whole)[0]["value"] / 100
    if not scale or not difference or difference["low"] is None or difference["high"] is None:
        return None
    low, high = difference["low"], difference["high"]
    return difference["value"] / scale, low / scale, high / scale, not low <= 0 <= high


def score_kept(m: Measurement, benchmarks: Sequence[str], among: Sequence[Measurement]) -> float | None:
    """The mean score in percent of the unpruned one, over the benchmarks that have both."""
    reference = unpruned(m, among)
    shares = []
    for name in benchmarks:
        mine, whole = m.benchmark(name), reference.benchmark(name) if reference else None
        if mine and whole and primary(whole)[0]["value"]:
            shares.append(100 * primary(mine)[0]["value"] / primary(whole)[0]["value"])
    return fmean(shares) if shares else None


def budget(measurement: Measurement, benchmarks: Sequence[str], among: Sequence[Measurement]) -> Budget:
    """Mean share over the benchmarks of the visual tokens that a layer sees.

    V is the unpruned model's count: with a smaller image, the vision tower hands over fewer tokens.
    """
    reference = unpruned(measurement, among) or measurement
    prefill: list[float] = []
    decode: list[float] = []
    for name in benchmarks:
        mine, whole = measurement.benchmark(name), reference.benchmark(name) or measurement.benchmark(name)
        if not mine or not whole or not mine["visual_tokens"] or not whole["visual_tokens"]:
            continue
        total = whole["visual_tokens"]["total"]
        if not total:
            continue
        prefill.append(fmean(mine["visual_tokens"]["prefill"]) / total)
        if mine["visual_tokens"]["decode"]:
            decode.append(fmean(mine["visual_tokens"]["decode"]) / total)
    return Budget(fmean(prefill) if prefill else None, fmean(decode) if decode else None)
