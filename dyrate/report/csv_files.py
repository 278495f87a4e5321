"""The tables' files: for each a CSV with all that is known, and beside it Markdown and LaTeX to paste.

A sheet is declared: its fields, and the lines that fill them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from dyrate import files
from dyrate.analysis import frame as tidy
from dyrate.analysis.cells import Row, Table
from dyrate.analysis.contents import Contents
from dyrate.analysis.measurement import Measured
from dyrate.analysis.words import say
from dyrate.report.grid import Bold, Grid, csv_text, latex, markdown, score, share

Fields = Mapping[str, Callable[[Any], object]]

AUDIT: Fields = {
    "where": lambda f: f.where,
    "check": lambda f: f.check,
    "verdict": lambda f: f.verdict,
    "cells": lambda f: "; ".join(f.cells),
    "evidence": lambda f: f.evidence,
}
MISSING: Fields = {"what": lambda one: one.what, "why": lambda one: one.why}
BUDGET: Fields = {
    "model": lambda c: c.mine.model,
    "method": lambda c: c.mine.label,
    "decoding": lambda c: c.mine.decoding,
    "competitor": lambda c: c.competitor,
    "benchmark": lambda c: c.benchmark,
    "phase": lambda c: c.phase,
    "budget": lambda c: c.budget,
    "prefill_share": lambda c: c.own.prefill,
    "decode_share": lambda c: c.own.decode,
    "mixture": lambda c: " + ".join(f"{weight:.4f} {m.label}" for weight, m in c.parts),
    "metric": lambda c: c.mine.result["benchmarks"][c.benchmark]["primary"],
    "unit": lambda c: c.unit,
    "units": lambda c: len(c.whole.units),
    "value": lambda c: c.score,
    "competitor_value": lambda c: c.competitor_score,
    "difference": lambda c: c.difference["value"],
    "difference_low": lambda c: c.difference["low"],
    "difference_high": lambda c: c.difference["high"],
    "verdict": lambda c: c.verdict,
    "result": lambda c: c.mine.files.result.as_posix(),
}
RANKING: Fields = {
    "model": lambda at: at[0].model,
    "budget": lambda at: at[0].budget,
    "method": lambda at: at[1].name,
    "control": lambda at: "yes" if at[1].control else None,
    "kept_percent": lambda at: at[1].kept["value"],
    "low": lambda at: at[1].kept["low"],
    "high": lambda at: at[1].kept["high"],
    "rank_from": lambda at: at[0].ranks(at[1])[0],
    "rank_to": lambda at: at[0].ranks(at[1])[1],
    "prefill_share": lambda at: at[1].spent,
    "settings": lambda at: " + ".join(m.title for m in at[1].settings),
    "benchmarks": lambda at: " ".join(at[0].benchmarks),
}
CARRIED: Fields = {
    "model": lambda one: one.models[0],
    "other_model": lambda one: one.models[1],
    "budget": lambda one: one.budget,
    "method": lambda one: one.methods[0],
    "competitor": lambda one: one.methods[1],
    "benchmark": lambda one: one.benchmark,
    "unit": lambda one: one.unit,
    "difference": lambda one: one.differences[0]["value"],
    "difference_low": lambda one: one.differences[0]["low"],
    "difference_high": lambda one: one.differences[0]["high"],
    "other_difference": lambda one: one.differences[1]["value"],
    "other_difference_low": lambda one: one.differences[1]["low"],
    "other_difference_high": lambda one: one.differences[1]["high"],
    "verdict": lambda one: one.verdicts[0],
    "other_verdict": lambda one: one.verdicts[1],
    "outcome": lambda one: one.outcome,
}
COST = (
    "model", "method", "decoding", "benchmark", "convention", "scope", "text_tokens", "new_tokens",
    "tera", "percent", "result",
)  # fmt: skip
TABLE = (
    "group", "model", "method", "decoding", "llm", "benchmark", "task", "metric", "unit", "samples", "units",
    "value", "low", "high", "difference", "difference_low", "difference_high",
    "published_row", "published", "published_bold", "prefill_share", "decode_share", "result", "missing",
)  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """A CSV; `grid` is what stands in Markdown and LaTeX, where this is more than the same fields."""

    title: str
    fields: Sequence[str]
    lines: Sequence[Mapping[str, object]]
    unprinted: Sequence[str] = ()
    """Fields for programs, which a printed table has no room for."""
    laid_out: Grid | None = None

    @property
    def grid(self) -> Grid:
        """What is printed."""
        if self.laid_out:
            return self.laid_out
        fields = [field for field in self.fields if field not in self.unprinted]
        rows = [tuple(_short(line.get(field)) for field in fields) for line in self.lines]
        return Grid(self.title, [field.replace("_", " ") for field in fields], [("", rows)])


@dataclass(frozen=True)
class Listing:
    """A sheet that lists things, one a line."""

    title: str
    fields: Fields
    things: Callable[[Contents], Iterable[Any]]
    unprinted: str = ""

    def sheet(self, things: Iterable[Any]) -> Sheet:
        """The sheet of these things."""
        lines = [{name: value(thing) for name, value in self.fields.items()} for thing in things]
        return Sheet(self.title, [*self.fields], lines, self.unprinted.split())


LISTED: Mapping[str, Listing] = {
    "equal_budget": Listing(
        "DyRate at equal budget",
        BUDGET,
        lambda contents: [c for standing in contents.standings for c in standing.comparisons],
        "decoding mixture metric unit result",
    ),
    "ranking": Listing(
        "All methods at equal budget",
        RANKING,
        lambda contents: [(ranking, place) for ranking in contents.rankings for place in ranking.places],
        "settings benchmarks",
    ),
    "carried": Listing(
        "Verdicts of one model on another", CARRIED, lambda contents: contents.carried, "unit"
    ),
    "audit": Listing("Audit of the printed tables", AUDIT, lambda contents: contents.findings),
    "missing": Listing("Missing", MISSING, lambda contents: contents.missing),
}


def sheets(contents: Contents) -> dict[str, Sheet]:
    """Every table of a study by the key of its files; the whole frame is `measurements`."""
    tables = {table.key: of_table(table) for table in contents.tables}
    listed = {key: listing.sheet(listing.things(contents)) for key, listing in LISTED.items()}
    return {**tables, **listed, "cost": of_costs(contents.frame)}


def write(sheet: Sheet, path: Path) -> None:
    """Write the CSV."""
    files.write_text(path, csv_text(sheet.fields, sheet.lines))


def write_all(sheet: Sheet, path: Path, note: str) -> None:
    """Write the CSV, and Markdown and LaTeX beside it, which end in a note on where the figures are from."""
    write(sheet, path)
    grid = replace(sheet.grid, notes=(*sheet.grid.notes, note))
    files.write_text(path.with_suffix(".md"), markdown(grid))
    files.write_text(path.with_suffix(".tex"), latex(grid))


def of_frame(frame: pd.DataFrame) -> Sheet:
    """All rows of the frame."""
    return Sheet("Measurements", [*frame.columns], tidy.lines(frame))


def of_costs(frame: pd.DataFrame) -> Sheet:
    """FLOPs: one line per measurement, benchmark, convention and scope."""
    return Sheet("FLOPs by convention", COST, [*tidy.costs(frame)], ("result",))


def of_table(table: Table) -> Sheet:
    """A table of the report: one line per row and benchmark.

    Empty fields are what was not measured, or not published; `missing` says why there is no value where there
    should be one. A text column is the field of its key, and what the paper prints in it that of its key with
    `published_`.
    """
    texts = [(c.key, f"published_{c.key}")[: 2 if c.published else 1] for c in table.text_columns]
    return Sheet(table.title, (*TABLE, *chain(*texts)), [*_lines(table)], laid_out=_grid(table))


def _lines(table: Table) -> Iterator[dict[str, object]]:
    for group, row in ((group, row) for group, rows in table.groups for row in rows):
        m, printed = row.measurement, row.printed
        texts: dict[str, object] = {}
        for column, text in row.text_pairs(table.text_columns):
            texts |= {column.key: text.measured, f"published_{column.key}": text.published}
        for column, cell in row.pairs(table.columns):
            if not (cell.measured or cell.published or cell.missing):
                continue
            line: dict[str, object] = {"group": group, "benchmark": column.key, **texts}
            if printed:
                bold = "yes" if cell.printed_bold else None
                line |= {"llm": printed.llm, "published_row": printed.name, "published": cell.published}
                line |= {"published_bold": bold}
            if m and (cell.measured or cell.missing):
                line |= {"model": m.model, "method": m.title, "decoding": m.decoding, "missing": cell.missing}
            if m and cell.measured:
                line |= vars(cell.measured) | {"task": m.result["benchmarks"][column.key]["task"]}
                line |= {"prefill_share": row.budget.prefill, "decode_share": row.budget.decode}
                line |= {"result": m.files.result.as_posix()}
            yield line


def _grid(table: Table) -> Grid:
    headings = ["Model or method", "Prefill", "Decode"]
    for column in table.all_columns:
        headings += [column.heading, *([f"{column.heading}, paper"] if column.published else [])]
    groups = [(title, [_cells(table, row) for row in rows]) for title, rows in table.groups]
    notes = (say("signs", against=table.against), *table.footnotes)
    return Grid(f"{table.number}: {table.title}", headings, groups, notes)


def _cells(table: Table, row: Row) -> list[str]:
    m = row.measurement
    name = m.title if m else row.printed.title if row.printed else ""
    where = [m.model, *([m.decoding] if table.many_decodings else [])] if m else []
    spent = [share(row.budget.prefill), share(row.budget.decode)] if m else ["", ""]
    cells = [f"{name}, {', '.join(where)}" if where else name, *spent]
    for column, cell in row.pairs(table.all_columns):
        found = cell.measured
        if isinstance(found, Measured):
            compared = found.difference, found.verdict
            text = score(found.value, found.low, found.high, found.unit, *compared)
            found = Bold(text) if found.best else text
        there = Bold(cell.published) if cell.published and cell.printed_bold else cell.published or ""
        cells += [found or ("✗" if cell.missing else ""), *([there] if column.published else [])]
    return cells


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
