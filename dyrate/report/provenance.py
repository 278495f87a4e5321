"""Where the measured figures come from: the page's header, gathered from the results themselves."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from dyrate.analysis.measurements import Measurement, source, span
from dyrate.study import Study

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
        "Device": _each(f"{meta['device']}, {meta['dtype']}" for meta in metas),
        "Engine": _each(
            "lmms-eval’s adapters" if "adapter" in meta else meta.get("engine", "transformers")
            for meta in metas
        ),
        "Measured on": _dates(dates),
        "Compute": f"{wall / 60:.0f} min in {len(measurements)} jobs" if dates else "",
        "Commit": _each(_short(meta.get("commit") or "") for meta in metas),
        "Versions": ", ".join(versions),
    }
    return {name: value for name, value in values.items() if value}


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


def _short(commit: str) -> str:
    """The first twelve digits of a commit; a mark of changed files stays."""
    digits, mark, rest = commit.partition("-")
    return digits[:12] + mark + rest
