"""`dyrate table`: rows and columns of a study's frame, as people ask for them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd

from dyrate.analysis.frame import PUBLISHED, lines
from dyrate.analysis.measurement import grouped, span
from dyrate.analysis.tables import heading
from dyrate.analysis.words import say
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report.csv_files import Sheet
from dyrate.report.grid import Bold, Grid, score, share

Line = Mapping[str, Any]
Cells = Mapping[str, Any]
"""By column the line of a score, or the value of a fact."""


@dataclass(frozen=True)
class Fact:
    """A column that is no benchmark's: a field of the frame, its mean over the benchmarks shown."""

    field: str
    heading: str
    shown: Callable[[Any], str]


FACTS: Mapping[str, Fact] = {
    "prefill": Fact("prefill_share", "Prefill", share),
    "decode": Fact("decode_share", "Decode", share),
    "flops": Fact("flops_cached_percent", "FLOPs, %", lambda value: f"{value:.1f}"),
    "latency": Fact("latency_ms", "ms/token", lambda value: f"{value:.2f}"),
    "kv_bytes": Fact("kv_bytes", "KV bytes", lambda value: f"{value:.0f}"),
    "origin": Fact("origin", "Origin", str),
}
PARTS = ("low", "high", "difference", "difference_low", "difference_high")  # of a score, beside its value


def view(
    frame: pd.DataFrame,
    study: str,
    columns: Sequence[str] = (),
    methods: Sequence[str] = (),
    models: Sequence[str] = (),
    with_published: bool = False,
) -> Sheet:
    """Choose from the frame, whose order rows have; what is not named is all of it.

    A column is a benchmark (its main metric), `benchmark:metric`, or one of `FACTS`; a method is named as
    `dyrate methods` lists it, or with its hyperparameters as tables label it. Raises `DyrateError` for what
    the study does not have, with what it has.
    """
    found = lines(frame)
    measured = [line for line in found if line["origin"] != PUBLISHED]
    ours = dict.fromkeys(line["benchmark"] for line in measured)
    columns = columns or [*(name for name in BENCHMARKS if name in ours), "prefill", "decode"]
    metrics = dict.fromkeys(f"{line['benchmark']}:{line['metric']}" for line in measured)
    for column in columns:
        _known("--columns", column, [*ours, *FACTS], metrics)
    shown = found if with_published else measured
    named = {n: None for line in shown for n in (line["name"], line["method"]) if n}
    on = dict.fromkeys(line["model"] for line in measured)
    methods = [_known("--methods", name, named) for name in methods]
    models = [_known("--models", name, on) for name in models]
    names = [c.partition(":")[0] for c in columns if c not in FACTS] or [*ours]
    asked = [
        line
        for line in shown
        if line["benchmark"] in names
        and (not methods or {line["name"], line["method"]} & {*methods})
        and (line["origin"] == PUBLISHED or not models or line["model"] in models)
    ]
    rows = [(row[0], {c: _value(row, c) for c in columns}) for row in grouped(asked, _row).values()]
    if not rows:
        raise DyrateError("--methods and --models: the study has no row of these together")
    notes = [say("chosen", units=span(line["units"] for line in asked))]
    fields = ["model", "method", "decoding", "origin"]
    told = [{name: first[name] for name in fields} | _told(cells) for first, cells in rows]
    for column in (c for c in columns if c != "origin"):
        fields += [column, *(f"{column}_{part}" for part in PARTS if column not in FACTS)]
    return Sheet(f"Study {study}", fields, told, laid_out=_grid(f"Study {study}", columns, rows, notes))


def _told(cells: Cells) -> dict[str, Any]:
    """The cells for programs: a score with its interval and difference in fields of their own."""
    line = dict(cells)
    for column, cell in cells.items():
        if isinstance(cell, Mapping):
            line |= {f"{column}_{part}": cell[part] for part in PARTS} | {column: cell["value"]}
    return line


def _grid(
    title: str, columns: Sequence[str], rows: Sequence[tuple[Line, Cells]], notes: Sequence[str]
) -> Grid:
    """For people: a group per model, the best measured score of each in bold."""
    many = len({first["decoding"] for first, _ in rows} - {None}) > 1
    headings = [
        FACTS[c].heading if c in FACTS else ", ".join((heading(c.split(":")[0]), *c.split(":")[1:]))
        for c in columns
    ]
    groups = []
    for model, members in grouped(rows, lambda row: _model(row[0])).items():
        names = [
            ", ".join([first["method"], *([first["decoding"]] if many and first["decoding"] else [])])
            for first, _ in members
        ]
        shown = [_column(column, [cells[column] for _, cells in members]) for column in columns]
        groups.append((model, list(zip(names, *shown, strict=True))))
    return Grid(title, ["Method", *headings], groups, notes)


def _column(column: str, cells: Sequence[Any]) -> list[str]:
    """The cells of a model's rows in a column, as they are shown."""
    if column in FACTS:
        return ["–" if cell is None else FACTS[column].shown(cell) for cell in cells]
    values = [cell["value"] for cell in cells if cell and cell["value"] is not None]
    best = max(values) if len(values) > 1 else None
    return [_shown(cell, best) for cell in cells]


def _shown(cell: Line | None, best: float | None) -> str:
    if cell is None or cell["value"] is None:
        return "–" if cell is None else "✗"
    if cell["printed"]:
        return str(cell["printed"])
    text = score(*(cell[part] for part in ("value", "low", "high", "unit", "difference", "verdict")))
    return Bold(text) if cell["value"] == best else text


def _row(line: Line) -> tuple[object, ...]:
    """What the lines of a row have in common; a figure that two tables print is one."""
    printed = line["origin"] == PUBLISHED
    return printed, line["model"], line["method"], line["decoding"], None if printed else line["result"]


def _value(row: Sequence[Line], column: str) -> Any:
    if column in FACTS:
        each = {line["benchmark"]: line[FACTS[column].field] for line in row}
        values = [value for value in each.values() if value is not None]
        return sum(values) / len(values) if values and column != "origin" else next(iter(values), None)
    benchmark, _, metric = column.partition(":")
    metrics = {line["metric"]: line for line in row if line["benchmark"] == benchmark}
    main = next((name for name, line in metrics.items() if line["primary"]), "")
    return metrics.get(metric or main)


def _model(first: Line) -> str:
    return f"{first['model']}, published" if first["origin"] == PUBLISHED else str(first["model"])


def _known(option: str, asked: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """What was asked for, if it is there."""
    if asked in (known := [*known]) or asked in (others := [*others]):
        return asked
    close = get_close_matches(asked, [*known, *others], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = ", or benchmark:metric such as " + next(iter(others)) if others else ""
    raise DyrateError(f"{option} {asked}: the study has no such entry; {hint}it has {', '.join(known)}{more}")
