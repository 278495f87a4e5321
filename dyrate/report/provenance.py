"""Where the measured figures come from, gathered from the results, logs and times that jobs left behind."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dyrate.analysis.measurement import Measurement, span
from dyrate.analysis.measurements import source
from dyrate.bench.study_jobs import timed
from dyrate.evaluation.hub.record import absence
from dyrate.study import Study
from dyrate.study.fetches import fetches
from dyrate.trace.study_jobs import traced

LINES, LONGEST = 12, 300  # of a log's end, and characters of a line
OWN = {"report", "tables"}  # written while this is read
DIRTY = "-"
"""What follows a commit where files of it were changed."""

_APART = {
    "hub": "",
    "testbed": " Measured figures are not those of the paper's models on its benchmarks.",
    "other": " Measured figures need not be on the paper's benchmarks.",
}
_PASTED = ("Study", "Models", "Samples per benchmark", "Seed", "Device", "Measured on", "Commit")


def facts(study: Study, measurements: Sequence[Measurement]) -> dict[str, str]:
    """Study, models, samples, seeds, device, versions, commit and dates; differing values are all named."""
    metas = [m.result["meta"] for m in measurements]
    counts = [b["samples"] for m in measurements for b in m.result["benchmarks"].values()]
    versions = sorted({f"{name} {v}" for meta in metas for name, v in meta.get("versions", {}).items()})
    dates = sorted(m.run["date"] for m in measurements if m.run)
    wall = sum(m.run["wall_seconds"] for m in measurements if m.run)
    values = {
        "Study": study.name,
        "Models": _each(m.model for m in measurements),
        "Decoding": _each(m.decoding for m in measurements),
        "Samples per benchmark": span(counts),
        "Seed": _each(meta["seed"] for meta in metas),
        "Device": _each(f"{meta['device']}, {meta['dtype']}{fitted(meta)}" for meta in metas),
        "Engine": _each(
            "lmms-eval’s adapters" if "adapter" in meta else meta.get("engine", "transformers")
            for meta in metas
        ),
        "Measured on": _dates(dates),
        "Compute": f"{wall / 60:.0f} min in {len(measurements)} jobs" if dates else "",
        "Pixels of an image": _each(
            "{} to {} on {}".format(*meta["pixels"], name)
            for name, meta in ((m.model, m.result["meta"]) for m in measurements)
            if "pixels" in meta
        ),
        "Repetition penalty": _each(
            f"{meta['repetition_penalty']}, the checkpoint’s own, on {name}"
            for name, meta in ((m.model, m.result["meta"]) for m in measurements)
            if "repetition_penalty" in meta
        ),
        "Commit": _each(commit(meta.get("commit") or "") for meta in metas),
        "Versions": ", ".join(versions),
    }
    return {name: value for name, value in values.items() if value}


def fitted(meta: Mapping[str, Any]) -> str:
    """How a model was loaded that no single device had room for, and what that means; else nothing."""
    told = [f"the language model's layers in {meta['bits']} bits"] if "bits" in meta else []
    told += ["layers over several devices"] if "device_map" in meta else []
    return "".join(f", {one}" for one in told) + (" (times are not comparable)" if told else "")


def origin_note(study: Study, measurements: Sequence[Measurement]) -> str:
    """One line for what is pasted elsewhere: of which study, models, samples and device its figures are."""
    measured = [m for m in measurements if m.measured]
    told = [f"{name}: {value}" for name, value in facts(study, measured).items() if name in _PASTED]
    return f"{'; '.join(told)}.{_APART[source(study, measured)]}"


def _each(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if str(value)))


def _dates(dates: Sequence[str]) -> str:
    days = sorted({datetime.fromisoformat(date).date().isoformat() for date in dates})
    return "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def commit(name: str) -> str:
    """The first twelve digits of a commit; a mark of changed files stays."""
    digits, mark, rest = name.partition(DIRTY)
    return digits[:12] + mark + rest


@dataclass(frozen=True)
class Failure:
    """A job without a result, or with a part of one: why, and what it said last."""

    what: str
    why: str
    log: str
    tail: str  # empty where there is no log


def failures(study: Study, measurements: Iterable[Measurement]) -> tuple[Failure, ...]:
    """Every job of which something is missing, with the end of its log: data that did not come first."""
    logs = {job.result: study.log(*sweep.jobs[0].key) for sweep in study.sweeps for job in sweep.jobs}
    found = []
    for item, job in fetches(study).items():
        log = study.log("fetch", item)
        if why := absence(job.output):
            found.append(Failure(f"Fetching {item}", why, log, _tail(log)))
    for m in measurements:
        if m.job and m.missing:
            log = logs[m.job.result]
            what = f"{m.model}, {m.label}, {m.decoding}: {', '.join(m.missing)}"
            found.append(Failure(what, "; ".join(dict.fromkeys(m.missing.values())), log, _tail(log)))
    return tuple(found)


def _tail(log: str) -> str:
    path = Path(log)
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return "\n".join(line.rstrip()[:LONGEST] for line in deque(file, LINES))


@dataclass(frozen=True)
class Timed:
    """What Snakemake wrote of one process: seconds on the wall, most resident memory, mean load of CPUs."""

    name: str
    seconds: float
    megabytes: float | None
    load: float | None


def timings(study: Study) -> tuple[Timed, ...]:
    """The processes of a study that left their times, in the order of their paths."""
    folder = Path("results", study.name, "timings")
    return tuple(
        Timed(name, seconds, _float(line.get("max_rss")), _float(line.get("mean_load")))
        for path in sorted(folder.rglob("*.tsv"))
        if (name := path.relative_to(folder).with_suffix("").as_posix()) not in OWN
        for line in _lines(path)
        if (seconds := _float(line.get("s"))) is not None
    )


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t")


def _float(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None  # Snakemake writes "-" where it could not look


@dataclass(frozen=True)
class Step:
    """One kind of job of the study's graph: how many processes there are of it, and what they make."""

    rule: str
    processes: int
    makes: str


def steps(study: Study) -> tuple[tuple[Step, ...], ...]:
    """The study's graph from left to right: each column waits for the one before it."""
    made = "fetch" if study.tasks == "hub" else "build_benchmarks"
    columns = (
        (Step("study", 1, "the checked config"),),
        (
            Step(made, 1, _many(study.benchmarks, "benchmark")),
            Step("train_predictor", len(study.trainings), _many(study.trainings, "predictor")),
        ),
        (
            Step("evaluate", len(study.sweeps), _many(study.jobs, "result")),
            Step("trace", len(traced(study)), "attention by step"),
            Step("latency", len(timed(study)), "times on this machine"),
        ),
        (Step("tables", 1, "CSV and HTML"), Step("report", 1, "these pages")),
    )
    return tuple(tuple(step for step in column if step.processes) for column in columns)


def _many(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def hashes(measurements: Iterable[Measurement]) -> dict[str, tuple[tuple[str, str], ...]]:
    """(what, its hash) of everything that the results say they were made from, by kind."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for m in measurements:
        for kind, value in m.result["meta"].get("hashes", {}).items():
            if kind == "data" and isinstance(value, dict):
                for name, digest in value.items():
                    found.setdefault(kind, {})[name, str(digest)] = None
            elif isinstance(value, str) and kind in ("weights", "template", "code", "method"):
                whose = m.model if kind in ("weights", "template") else m.label
                found.setdefault(kind, {})[whose, value] = None
    return {kind: tuple(entries) for kind, entries in found.items()}


def hosts(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """The machines, each once, as the runs describe them."""
    lines = (
        ", ".join(f"{key} {value}" for key, value in sorted(dict(m.run.get("host") or {}).items()))
        for m in measurements
        if m.run
    )
    return tuple(dict.fromkeys(line for line in lines if line))
