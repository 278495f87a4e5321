"""What a study asks for and does not have: rows, cells, differences, traces and times, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dyrate.analysis.attention_trends import read_summaries
from dyrate.analysis.latency import Latencies
from dyrate.analysis.measurement import NONE, Measurement, grouped
from dyrate.analysis.reasons import last_words
from dyrate.evaluation.placement import is_of
from dyrate.look import study_jobs as surviving
from dyrate.look.record import partial, read
from dyrate.study import Study, StudyJob
from dyrate.trace import study_jobs as tracing


@dataclass(frozen=True)
class Missing:
    """One thing that is not there."""

    what: str
    why: str


def missing(study: Study, measurements: Sequence[Measurement]) -> tuple[Missing, ...]:
    """Everything that is missing, in the order of the study's jobs; then differences, traces and times.

    `measurements` must have been compared with the unpruned model (`dyrate.analysis.paired.Answers.compare`).
    """
    return (
        *_cells(measurements),
        *_differences(measurements),
        *_traces(study),
        *(Missing(f"times of {model}, Table III", why) for model, why in Latencies.of(study).missing.items()),
    )


def _cells(measurements: Sequence[Measurement]) -> Iterator[Missing]:
    for m in measurements:
        for why, names in _by_reason(m.missing).items():
            all_of_it = "" if len(names) < len(m.missing) or m.measured else "all of it: "
            more = "; so no row of this model has a difference to it" + " there" * bool(m.measured)
            told = f"{why}{more}" if m.kind == NONE and not m.system else why
            yield Missing(_named(m, f"{all_of_it}{', '.join(names)}"), told)


def _differences(measurements: Sequence[Measurement]) -> Iterator[Missing]:
    for m in measurements:
        for why, names in _by_reason(m.uncompared).items():
            yield Missing(_named(m, f"the difference to the unpruned model on {', '.join(names)}"), why)


def _traces(study: Study) -> Iterator[Missing]:
    there = {summary["model"]: summary for summary in read_summaries(study)}
    for model in tracing.traced(study):
        if model not in there:
            yield Missing(f"trace of {model}", last_words(study.log(model, "trace")))
            continue
        for why, names in _by_reason(there[model].get("failed", {})).items():
            yield Missing(f"trace of {model}: {', '.join(names)}", why)


def unseen(study: Study) -> tuple[Missing, ...]:
    """What the page of token survival lacks, of the models whose job is over."""
    return tuple(
        one for model, jobs in surviving.survivals(study).items() for one in _unseen(study, model, jobs)
    )


def _unseen(study: Study, name: str, jobs: tuple[StudyJob, ...]) -> Iterator[Missing]:
    path = Path(surviving.record(study, name))
    if path.exists():
        return
    what = f"token survival of {name}"
    part = read(partial(path)) if partial(path).exists() else None
    if part is None or not is_of(part["command"], surviving.job(study, jobs[0].model, jobs)):
        yield Missing(what, last_words(study.log(name, "survival")))
        return
    failed = [
        (label, look["title"], why) for look in part["looks"] for label, why in look.get("failed", {}).items()
    ]
    for method in dict.fromkeys(label for label, _, _ in failed):
        for why, titles in _by_reason(
            {title: why for label, title, why in failed if label == method}
        ).items():
            yield Missing(f"{what}: {method} on {'; '.join(titles)}", why)


def _named(m: Measurement, what: str) -> str:
    return f"{m.model}, {m.label}, {m.decoding}: {what}"


def _by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    return grouped(missing, missing.__getitem__)
