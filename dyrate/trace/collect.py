"""One trace: the unpruned model answers questions, greedily, and where it looks meanwhile is kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.evaluate import load, meta, reason
from dyrate.evaluation.harness import ask
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.families import family_of
from dyrate.files import make_folder
from dyrate.fingerprint import fingerprint
from dyrate.trace import files
from dyrate.trace.files import Summary, TracedBenchmark, TraceFiles
from dyrate.trace.job import Trace
from dyrate.trace.recorder import Recorder
from dyrate.trace.trends import by_layer, curve, grows, trends

if TYPE_CHECKING:
    from dyrate.evaluation.adapter import DyrateModel


def trace(job: Trace) -> Summary:
    """Run a trace and write its files; returns the summary. Raises `DyrateError` for unfit arguments.

    A benchmark that fails costs no other, as in an evaluation: what there is becomes a partial trace, which
    names it, under a name of its own. Where all fail, the first error is raised.
    """
    out = TraceFiles.of(job.output)
    make_folder(job.output.parent)
    model = load(job)
    model.recorded = range(len(family_of(model.model).layers))
    failed: dict[str, Exception] = {}
    tasks = load_tasks(select(job.benchmarks), job.tasks, job.data, job.cuts, failed=failed)
    recorders: dict[str, Recorder] = {}
    for loaded in tasks:
        try:
            recorders[loaded.benchmark.name] = _record(model, loaded)
        except Exception as error:  # noqa: BLE001 - it is told, and the others are traced
            failed[loaded.benchmark.name] = error
    if not recorders:
        raise next(failed[name] for name in job.benchmarks if name in failed)
    summary = _summary(job, model, [one for one in tasks if one.benchmark.name in recorders], recorders)
    if failed:
        summary["failed"] = {name: reason(failed[name]) for name in job.benchmarks if name in failed}
        out = out.partial
    summary["meta"]["hashes"] |= {
        "mass": files.write_mass(out.mass, {name: one.samples for name, one in recorders.items()}),
        "heads": files.write_heads(out.heads, {name: one.heads for name, one in recorders.items()}),
    }
    files.write_summary(out.summary, summary)
    if not failed:
        out.partial.remove()
    return summary


def _record(model: "DyrateModel", loaded: LoadedTask) -> Recorder:
    """Answer one benchmark's questions; samples are named by their row in the benchmark's data."""
    recorder = Recorder()
    model.observer = recorder
    ask(model, loaded)
    recorder.samples = {loaded.rows[doc]: recorder.samples[doc] for doc in sorted(recorder.samples)}
    return recorder


def _summary(
    job: Trace, model: "DyrateModel", tasks: Sequence[LoadedTask], recorders: dict[str, Recorder]
) -> Summary:
    heads = next(iter(recorders.values())).heads
    return {
        "schema": files.SCHEMA,
        "version": files.VERSION,
        "study": job.study,
        "model": job.name,
        "layers": heads.shape[1],
        "heads": heads.shape[2],
        "benchmarks": {
            loaded.benchmark.name: _traced(loaded, recorders[loaded.benchmark.name], job.seed)
            for loaded in tasks
        },
        "meta": meta(job, model, tasks, fingerprint([__name__, "dyrate.reduction"])),
    }


def _traced(loaded: LoadedTask, recorder: Recorder, seed: int) -> TracedBenchmark:
    samples = recorder.samples
    return {
        "task": loaded.name,
        "samples": len(samples),
        "growing": sum(grows(mass) for mass in samples.values()),
        "steps": sum(len(mass) for mass in samples.values()) / len(samples),
        "trends": trends(samples, seed),
        "curve": curve(samples, seed),
        "img_by_layer": by_layer(samples),
    }
