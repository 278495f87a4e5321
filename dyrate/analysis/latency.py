"""Table III's times on the machine that the study ran on, as its own rule has measured them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyrate.analysis.measurement import Measurement
from dyrate.analysis.reasons import last_words, trained, untrained, why
from dyrate.analysis.words import say
from dyrate.bench import study_jobs as jobs
from dyrate.errors import DyrateError
from dyrate.speed.documents import BenchDocument, Timing, read
from dyrate.study import Study


@dataclass(frozen=True)
class Latencies:
    """The documents of a study's models."""

    documents: Mapping[str, tuple[BenchDocument, ...]]
    """By the model's name."""
    asked: Mapping[str, str]
    """The name of its document, by the result of each job that is timed."""
    missing: Mapping[str, str]
    """Why a document is not there, by its name."""

    @classmethod
    def of(cls, study: Study) -> "Latencies":
        """Read those that are there; raises `DyrateError` for damaged ones and for one of another model."""
        documents: dict[str, tuple[BenchDocument, ...]] = {}
        asked: dict[str, str] = {}
        missing: dict[str, str] = {}
        for name, timed in jobs.timed(study).items():
            path, model = Path(jobs.document(study, name)), timed[0].model
            asked |= {job.result: name for job in timed}
            if not path.exists() or any(untrained(study, job) for job in timed):
                waiting = [job for job in timed if not trained(job)]
                missing[name] = why(study, waiting[0]) if waiting else last_words(study.log(name, "latency"))
            else:
                bench = _only(path)
                if bench.model != model.path:
                    raise DyrateError(f"{path}: model: is {bench.model!r}, should be {model.path!r}")
                documents[model.name] = (*documents.get(model.name, ()), bench)
        return cls(documents, asked, missing)

    def timed(self, m: Measurement) -> tuple[BenchDocument, Timing] | None:
        """The timing of a measurement's row, and its document; None where it was not timed."""
        for bench in self.documents.get(m.model, ()):
            for timing in bench.rows:
                if timing.method and _is(timing.method.settings, m):
                    return bench, timing
        return None

    def per_token(self, m: Measurement) -> str | None:
        """Milliseconds per token, end to end, of the row of a measurement; None where it was not timed."""
        found = self.timed(m)
        return None if found is None else f"{_per_token(found[1]):.2f}"

    def costs(self, m: Measurement, benchmark: str) -> dict[str, object]:
        """The same as a number, and the bytes of the cache, of the benchmark whose prompts were timed."""
        found = self.timed(m)
        if found is None or found[0].benchmark != benchmark:
            return {}
        return {"latency_ms": _per_token(found[1]), "kv_bytes": found[1].kv_bytes}

    def why_not(self, m: Measurement) -> str | None:
        """Why the row of a measurement has no time, where the study asks for one."""
        return self.missing.get(self.asked.get(m.job.result, "")) if m.job else None

    def note(self) -> str:
        """Where the times come from."""
        benches = [bench for found in self.documents.values() for bench in found]
        if not benches:
            return say("untimed")
        loads = sorted({timing.new_tokens for bench in benches for timing in bench.rows})
        devices, paths = (
            sorted({bench.device for bench in benches}),
            [bench.path.as_posix() for bench in benches],
        )
        return say("timed", loads=loads, devices=devices, paths=paths)


def _per_token(timing: Timing) -> float:
    return timing.whole_ms.median / timing.new_tokens


def _is(settings: Mapping[str, Any], m: Measurement) -> bool:
    """Whether these are a measurement's settings; of a job without a result only the study's are known."""
    spec = m.result["method"]
    return settings == spec if m.measured else settings == {**settings, **spec}


def _only(path: Path) -> BenchDocument:
    benches = read([str(path)]).benches
    if not benches:
        raise DyrateError(f"{path}: is a document of `dyrate bench-harness`, should be one of `dyrate bench`")
    return benches[0]
