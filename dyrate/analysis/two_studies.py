"""Two studies' results, or those of two commits: which cells moved beyond their paired interval.

A cell is a benchmark of a result; two are compared where they answered the same samples to the same prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dyrate import files
from dyrate.analysis.measurement import Measurement, Verdict, verdict
from dyrate.analysis.paired import Answers
from dyrate.errors import DyrateError
from dyrate.evaluation.results import SCHEMA, Difference, Meta, ResultFiles, read


@dataclass(frozen=True)
class Moved:
    """A benchmark of a result in both, and the second's score minus the first's."""

    before: Measurement
    after: Measurement
    benchmark: str
    values: tuple[float, float]
    unit: str
    units: int
    difference: Difference
    verdict: Verdict


@dataclass(frozen=True)
class Apart:
    """What cannot be compared, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class TwoStudies:
    """All cells of two folders of results."""

    names: tuple[str, str]
    cells: tuple[Moved, ...]
    apart: tuple[Apart, ...]
    changed: tuple[str, ...]
    """What else differs, so that more than the method may be behind a difference: "weights of testbed-s"."""

    @property
    def moved(self) -> tuple[Moved, ...]:
        """The cells whose interval excludes zero."""
        return tuple(cell for cell in self.cells if cell.verdict in ("better", "worse"))


def compare(first: Path, second: Path) -> TwoStudies:
    """Compare two folders of results, or the studies whose `study.json` is given.

    Raises `DyrateError` for a place without results, and where the two have none in common.
    """
    before, after = _results(first), _results(second)
    if not before.keys() & after.keys():
        raise DyrateError(
            f"{first} and {second} have no result in common: a result is one of the same model, method and "
            f"decoding. The first has {_few(before)}; the second {_few(after)}"
        )
    cells: list[Moved] = []
    apart: list[Apart] = []
    for key in dict.fromkeys([*before, *after]):
        here, there = before.get(key), after.get(key)
        if here is None or there is None:
            apart.append(Apart(key, f"only in {second if here is None else first}"))
            continue
        answers = Answers(_seed(there))
        for benchmark in dict.fromkeys([*here.result["benchmarks"], *there.result["benchmarks"]]):
            found = _cell(here, there, benchmark, answers, (first, second))
            if isinstance(found, str):
                apart.append(Apart(f"{key}, {benchmark}", found))
            else:
                cells.append(found)
    pairs = [(before[key], after[key]) for key in before if key in after]
    return TwoStudies((str(first), str(second)), tuple(cells), tuple(apart), tuple(_changed(pairs)))


def _changed(pairs: Sequence[tuple[Measurement, Measurement]]) -> Iterator[str]:
    """What differs in how the results that belong together were made, and of which models."""
    facts: dict[str, Callable[[Meta], object]] = {
        "weights": lambda meta: meta.get("hashes", {}).get("weights"),
        "device": lambda meta: meta["device"],
        "dtype": lambda meta: meta["dtype"],
        "engine": lambda meta: meta.get("engine"),
        "bits": lambda meta: meta.get("bits"),
        "repetition penalty": lambda meta: meta.get("repetition_penalty"),
        "devices": lambda meta: meta.get("device_map"),
        "pixels": lambda meta: meta.get("pixels"),
        "batch size": lambda meta: meta.get("batch_size"),
        "versions": lambda meta: meta.get("versions"),
    }
    for name, fact in facts.items():
        models = [a.model for a, b in pairs if fact(a.result["meta"]) != fact(b.result["meta"])]
        if models:
            yield f"{name} of {', '.join(dict.fromkeys(models))}"


def _results(place: Path) -> dict[str, Measurement]:
    """The results of a folder by what names them there: model, method with its hyperparameters, decoding."""
    folder = place.parent if place.is_file() else place
    if not folder.is_dir():
        raise DyrateError(f"{place}: there is no such folder of results, and no study.json")
    return dict(_read(folder))


def _read(folder: Path) -> Iterator[tuple[str, Measurement]]:
    found = False
    for path in sorted(folder.glob("*/*/*.json")):
        if path.name.endswith((".run.json", ".partial.json")) or path.is_relative_to(folder / "logs"):
            continue
        document = files.read_json(path)
        if isinstance(document, dict) and document.get("schema") == SCHEMA:
            found = True
            key = " ".join(path.relative_to(folder).with_suffix("").parts)
            yield key, Measurement(ResultFiles.beside(path), read(path), None)
    if not found:
        raise DyrateError(
            f"{folder}: holds no results; expected MODEL/METHOD/DECODING.json in it, such as those of a "
            "study in results/testbed"
        )


def _cell(
    a: Measurement, b: Measurement, benchmark: str, answers: Answers, places: tuple[Path, Path]
) -> Moved | str:
    """The cell, or why there is none."""
    before, after = a.benchmark(benchmark), b.benchmark(benchmark)
    if before is None or after is None:
        return f"only in {places[1] if before is None else places[0]}"
    if before["primary"] != after["primary"] or before["task"] != after["task"]:
        names = [f"{one['task']} by {one['primary']}" for one in (before, after)]
        return f"{names[0]} in {places[0]}, {names[1]} in {places[1]}"
    if before["samples"] != after["samples"]:
        return f"{before['samples']} samples in {places[0]}, {after['samples']} in {places[1]}"
    if why := answers.apart(b, a, benchmark):
        return why
    mine, theirs = answers.resampled(b, benchmark), answers.resampled(a, benchmark)
    if mine is None or theirs is None or mine.units.names != theirs.units.names:
        return "the two did not answer the same samples"
    difference = mine.minus([(1.0, theirs)]).difference
    old, new = (one["scores"][one["primary"]] for one in (before, after))
    told = verdict(difference, new["higher_is_better"])
    values = old["value"], new["value"]
    return Moved(a, b, benchmark, values, new["unit"], len(mine.units), difference, told)


def _seed(m: Measurement) -> int:
    meta = m.result["meta"]
    return int(meta.get("bootstrap", {}).get("seed", meta["seed"]))


def _few(results: dict[str, Measurement]) -> str:
    names = [*results]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
