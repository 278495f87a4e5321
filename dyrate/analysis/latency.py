"""Table III's times on the machine that the study ran on, as its own rule has measured them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dyrate.analysis.measurements import Measurement
from dyrate.bench import study_jobs as jobs
from dyrate.errors import DyrateError
from dyrate.speed.documents import BenchDocument, read
from dyrate.study import Study

UNMEASURED = (
    "Not measured on this study’s models: what `latency` in a config asks for is not there, and evaluations "
    "share their machine, so their own times are no latencies. For times at the paper’s shapes, see the "
    "report’s section Time and memory."
)


@dataclass(frozen=True)
class Latencies:
    """The documents of a study's models, by the model's name."""

    documents: Mapping[str, BenchDocument]

    @classmethod
    def of(cls, study: Study) -> "Latencies":
        """Read those that are there; raises `DyrateError` for damaged ones and for one of another model."""
        documents: dict[str, BenchDocument] = {}
        for name, timed in jobs.timed(study).items():
            path = Path(jobs.document(study, name))
            if path.exists():
                documents[name] = bench = _only(path)
                if bench.model != timed[0].model.path:
                    wanted = timed[0].model.path
                    raise DyrateError(f"{path}: model: is {bench.model!r}, should be {wanted!r}")
        return cls(documents)

    def per_token(self, m: Measurement | None) -> str | None:
        """Milliseconds per token, end to end, of the row of a measurement; None where it was not timed."""
        bench = self.documents.get(m.model) if m else None
        if m is None or bench is None:
            return None
        for timing in bench.rows:
            if timing.method and timing.method.settings == m.result["method"]:
                return f"{timing.whole_ms.median / timing.new_tokens:.2f}"
        return None

    def note(self) -> str:
        """Where the times come from."""
        if not self.documents:
            return UNMEASURED
        loads = {timing.new_tokens for bench in self.documents.values() for timing in bench.rows}
        devices = sorted({bench.device for bench in self.documents.values()})
        paths = " and ".join(bench.path.as_posix() for bench in self.documents.values())
        return (
            f"Milliseconds per token, end to end, {' or '.join(map(str, sorted(loads)))} tokens to each "
            "prompt, one prompt at a time, medians over prompts; on this study’s own models and machine "
            f"({', '.join(devices)}), with nothing else of the study running. Command, commit and versions "
            f"are in {paths}. For times at the paper’s shapes, see the report’s section Time and memory."
        )


def _only(path: Path) -> BenchDocument:
    benches = read([str(path)]).benches
    if not benches:
        raise DyrateError(f"{path}: is a document of `dyrate bench-harness`, should be one of `dyrate bench`")
    return benches[0]
