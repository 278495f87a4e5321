"""What one result says: scores, differences to the unpruned model, budget, and whose it is."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal, TypeVar

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.decoding import decoding_slug
from dyrate.evaluation.results import BenchmarkResult, Difference, Result, ResultFiles, RunInformation
from dyrate.study import StudyJob
from dyrate.typed import Origin

Thing = TypeVar("Thing")
Key = TypeVar("Key", bound=Hashable)
NONE = "none"
CONTROLS = frozenset({"random", "uniform", "text_only", "downsample"})
Verdict = Literal["better", "worse", "open"] | None
"""Which way a difference's interval excludes zero: 'open' if it does not, None without an interval."""


@dataclass(frozen=True)
class Budget:
    """Visual tokens per layer as shares of V, at prefill and at decode; None where nobody counted."""

    prefill: float | None
    decode: float | None


@dataclass(frozen=True)
class Measured:
    """A measured score with its 95% interval and its paired difference to what the table compares with."""

    metric: str
    unit: str
    value: float
    low: float | None
    high: float | None
    samples: int
    units: int | None  # what the interval resamples: samples, pairs, circular questions
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: Verdict = None
    best: bool = False
    near: bool = False  # not the best, but the best lies within its interval

    def beside(self, difference: Difference | None, higher_is_better: bool | None = True) -> "Measured":
        """The score with its paired difference to what the table compares with, or without one."""
        value, low, high = (difference[key] if difference else None for key in ("value", "low", "high"))
        told = verdict(difference, higher_is_better)
        return replace(self, difference=value, difference_low=low, difference_high=high, verdict=told)

    def among(self, top: float) -> "Measured":
        """The score, marked where it is the best of some, or where that lies within its interval."""
        near = self.value != top and self.high is not None and self.high >= top
        return replace(self, best=self.value == top, near=near)


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
    among: "list[Measurement]" = field(default_factory=list, repr=False)
    """All of the study, the unpruned model's among them."""

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
    def unpruned(self) -> "Measurement | None":
        """The same decoding without reduction, on the same model or the one that this is measured against."""
        same = (self.reference, NONE, self.result["decoding"])
        found = (m for m in self.among if (m.model, m.method, m.result["decoding"]) == same)
        return next((m for m in found if m.measured), None)

    @property
    def apart(self) -> str | None:
        """Why nothing of it can be compared with the unpruned model: the two ran in different dtypes."""
        mine, theirs = (one and one.result["meta"]["dtype"] for one in (self, self.unpruned))
        return None if theirs in (None, mine) else f"it ran in {mine}, the unpruned model in {theirs}"

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

    def score(self, benchmark: str, metric: str = "") -> Measured | None:
        """A metric of a benchmark, that of the tables unless it is named; None where nothing was measured."""
        found = self.benchmark(benchmark)
        if found is None:
            return None
        name = metric or found["primary"]
        score, difference = found["scores"][name], (found["difference"] or {}).get(name)
        ends, counts = (score["low"], score["high"]), (found["samples"], units(benchmark, found))
        measured = Measured(name, score["unit"], score["value"], *ends, *counts)
        return measured.beside(difference, score["higher_is_better"])

    def pair(self, benchmark: str) -> tuple[Measured, Measured] | None:
        """The score and the unpruned model's; None where one is missing, that is zero, or both are apart."""
        mine, whole = self.score(benchmark), self.unpruned and self.unpruned.score(benchmark)
        return (mine, whole) if mine and whole and whole.value and not self.apart else None

    def kept(self, benchmarks: Iterable[str]) -> float | None:
        """The mean score in percent of the unpruned one, over the benchmarks that have both."""
        pairs = [pair for name in benchmarks if (pair := self.pair(name))]
        return fmean(100 * mine.value / whole.value for mine, whole in pairs) if pairs else None

    def budget(self, *benchmarks: str) -> Budget:
        """Mean share over the benchmarks of the visual tokens that a layer sees.

        V is the unpruned model's count: with a smaller image, the vision tower hands over fewer tokens. Where
        the unpruned model is missing it is the most that any method of this model was given.
        """
        prefill, decode = list[float](), list[float]()
        for name in benchmarks:
            mine, whole = self.benchmark(name), self.unpruned and self.unpruned.benchmark(name)
            beside = (m.benchmark(name) for m in (self, *self.among) if m.reference == self.reference)
            counts = [of["visual_tokens"] for of in ([whole] if whole else beside) if of]
            most = max((of["total"] for of in counts if of), default=0)
            tokens = mine and mine["visual_tokens"]
            if tokens and most:
                prefill.append(fmean(tokens["prefill"]) / most)
                decode += [fmean(tokens["decode"]) / most] if tokens["decode"] else []
        return Budget(*(fmean(shares) if shares else None for shares in (prefill, decode)))


def units(name: str, benchmark: BenchmarkResult) -> int | None:
    """How many independent items a score rests on: samples, pairs or circular questions; None if unknown."""
    whole = BENCHMARKS[name].unit is None
    return benchmark.get("units", benchmark["samples"] if whole else None)


def grouped(things: Iterable[Thing], key: Callable[[Thing], Key]) -> dict[Key, list[Thing]]:
    """The things by what `key` says of each, in the order of the first."""
    found: dict[Key, list[Thing]] = {}
    for thing in things:
        found.setdefault(key(thing), []).append(thing)
    return found


def span(counts: Iterable[int | None]) -> str:
    """Counts as "100" or "25 to 100"; empty where none is known."""
    known = sorted({count for count in counts if count is not None})
    return " to ".join(map(str, dict.fromkeys(known[:1] + known[-1:])))


def verdict(difference: Difference | None, higher_is_better: bool | None = True) -> Verdict:
    """The verdict of a difference."""
    if difference is None or difference["low"] is None or difference["high"] is None:
        return None
    if difference["low"] <= 0 <= difference["high"]:
        return "open"
    return "better" if (difference["low"] > 0) == (higher_is_better is not False) else "worse"
