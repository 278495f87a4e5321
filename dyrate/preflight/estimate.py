"""How many GPU hours a study takes, from times measured on one GPU and the benchmarks' true numbers of rows.

Prompts are taken as long as those measured. Where nothing was measured of a method, it is counted as the
unpruned model: it takes less, unless it spends more on choosing than it saves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from dyrate.cost.shapes import LLAVA, ModelShape
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.decoding import decoding_spec
from dyrate.speed.documents import METHODS, Documents, Timing, paths, read
from dyrate.study import Study, StudyJob
from dyrate.study.entries import NONE

STEPS = {"caption": 20, "short": 4, "vqa": 4, "reasoning": 4096}
"""Steps until the longest answer of a batch ends, by the benchmark's group: words, a sentence, the limit."""


@dataclass(frozen=True)
class Estimate:
    """What one evaluation takes."""

    job: StudyJob
    rows: int
    hours: float | None
    """None where nothing was measured at the model's shape."""
    measured: bool
    """Whether its own method was."""


@dataclass(frozen=True)
class Times:
    """Times that were measured on one kind of GPU."""

    documents: Documents

    @classmethod
    def recorded(cls) -> "Times":
        """Those that come with the checkout."""
        return cls(read(paths() + paths(METHODS)))

    @property
    def device(self) -> str:
        """Its name."""
        return next((bench.device for bench in self.documents.benches), "none")

    @property
    def host(self) -> float:
        """Seconds per row that decoding images and scoring add, as the whole harness shows them."""
        for harness in self.documents.harnesses:
            for row in harness.rows:
                unpruned = self._timing(_shape(harness.model), None, "graph", harness.batch_size)
                if row.name == "Unpruned" and unpruned is not None:
                    device = seconds(unpruned, max(1, round(row.tokens / row.samples)))
                    return max(0.0, 1 / row.captions_per_second - device)
        return 0.0

    def timing(
        self, shape: ModelShape, method: Mapping[str, Any], engine: str, batch: int
    ) -> tuple[Timing | None, bool]:
        """What was measured nearest to that batch, and whether it is of the method."""
        own = None if method["name"] == NONE else self._timing(shape, method, engine, batch)
        found = own or self._timing(shape, None, engine, batch)
        return found, own is not None or method["name"] == NONE

    def _timing(
        self, shape: ModelShape | None, method: Mapping[str, Any] | None, engine: str, batch: int
    ) -> Timing | None:
        rows = [
            row
            for bench in self.documents.benches
            if bench.sizes == shape
            for row in bench.rows
            if row.engine == engine and _is_of(row, method)
        ]
        return min(rows, key=lambda row: (abs(log(row.batch / batch)), -row.batch), default=None)


def seconds(timing: Timing, steps: int) -> float:
    """Per row, for answers of so many tokens."""
    later = 0.0 if timing.per_token_ms is None else timing.per_token_ms.median * (steps - 1)
    return (timing.first_token_ms.median + later) / 1000 / timing.batch


def estimates(study: Study, times: Times, speed: float = 1.0) -> Iterator[Estimate]:
    """Yield each evaluation's; `speed` is that of the user's GPU as a share of the measured one's."""
    host = times.host
    for job in study.jobs:
        spec = decoding_spec(job.decoding)
        beams = spec["num_beams"]
        engine = "graph" if study.typed.engine != "transformers" and beams == 1 else "transformers"
        rows = {name: BENCHMARKS[name].rows(study.cuts[name]) for name in job.method.benchmarks}
        shape = _shape(*job.model.published, job.model.name)
        timing, measured = None, False
        # Of a model over several devices or in fewer bits nothing was measured.
        if shape is not None and job.model.adapter is None and not job.model.fit:
            timing, measured = times.timing(shape, job.spec, engine, study.typed.batch_size)
        taken = None
        if timing is not None:
            steps = {name: STEPS[BENCHMARKS[name].group] for name in rows}
            taken = sum(
                count * (seconds(timing, steps[name]) * beams / speed + host) for name, count in rows.items()
            )
        hours = None if taken is None else taken / 3600
        yield Estimate(job, sum(rows.values()), hours, measured)


def table(found: Sequence[Estimate]) -> Iterator[str]:
    """Yield lines of text: an evaluation each, the whole at the end."""
    width = max((len(one.job.method.slug) for one in found), default=0)
    models = max((len(one.job.model.name) for one in found), default=0)
    for one in found:
        hours = "  not measured" if one.hours is None else f"{one.hours:6.1f} h"
        note = "" if one.measured or one.hours is None else "  as unpruned"
        head = f"{one.job.model.name:<{models}}  {one.job.method.slug:<{width}}  {one.job.key[2]:<8}"
        yield f"{head} {one.rows:>8,} rows {hours}{note}"
    total = sum(one.hours or 0 for one in found)
    unknown = sum(one.hours is None for one in found)
    less = f", and {unknown} evaluations of which nothing is known" if unknown else ""
    yield f"in all {total:.0f} GPU hours{less}"


def _is_of(row: Timing, method: Mapping[str, Any] | None) -> bool:
    if row.method is None or row.overhead or row.given:
        return row.engine == "transformers" and row.contender == "generate" and method is None
    if method is None:
        return row.unpruned and row.engine == "graph"
    settings = {key: value for key, value in row.method.settings.items() if key in method or key == "budget"}
    return settings == method


def _shape(*names: str) -> ModelShape | None:
    wanted = {name.lower() for name in names}
    return next((shape for known, shape in LLAVA.items() if known.lower() in wanted), None)
