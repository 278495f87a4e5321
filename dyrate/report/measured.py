"""What was measured: result files with their run information, and the budget and evidence in them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from dyrate.evaluation.results import (
    BenchmarkResult,
    Difference,
    Result,
    ResultFiles,
    RunInformation,
    Score,
    read,
    read_run,
)

NONE = "none"
CONTROLS = frozenset({"random", "uniform", "text_only", "downsample"})


@dataclass(frozen=True, eq=False)
class Measurement:
    """One result file; `run` is None where the producer left no run information."""

    files: ResultFiles
    result: Result
    run: RunInformation | None

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
    def decoding(self) -> str:
        """Name of the decoding strategy."""
        return str(self.result["decoding"]["name"])

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


def load(paths: Iterable[str | Path]) -> tuple[Measurement, ...]:
    """Read result files and, where present, the run information beside them."""
    return tuple(_load(Path(path)) for path in paths)


def _load(path: Path) -> Measurement:
    files = ResultFiles.beside(path)
    return Measurement(files, read(path), read_run(files.run) if files.run.exists() else None)


def primary(benchmark: BenchmarkResult) -> tuple[Score, Difference | None]:
    """The metric that the tables show, and its paired difference to the unpruned model."""
    name = benchmark["primary"]
    return benchmark["scores"][name], (benchmark["difference"] or {}).get(name)


def verdict(score: Score, difference: Difference | None) -> Literal["better", "worse", "open"] | None:
    """Which way the difference's interval excludes zero: 'open' if it does not, None without an interval."""
    if difference is None or difference["low"] is None or difference["high"] is None:
        return None
    if difference["low"] <= 0 <= difference["high"]:
        return "open"
    return "better" if (difference["low"] > 0) == (score["higher_is_better"] is not False) else "worse"


def unpruned(measurement: Measurement, among: Iterable[Measurement]) -> Measurement | None:
    """The same model and decoding without reduction."""
    same = (measurement.model, NONE, measurement.result["decoding"])
    return next((m for m in among if (m.model, m.method, m.result["decoding"]) == same), None)


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
