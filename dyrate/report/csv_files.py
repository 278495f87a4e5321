"""Tables as CSV: one line per row and benchmark."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from dyrate import files
from dyrate.analysis.cells import Cell, Column, Row, Table, TextColumn
from dyrate.analysis.cost import lines
from dyrate.analysis.equal_budget import Comparison, Standing
from dyrate.analysis.measurements import Measurement
from dyrate.analysis.missing import Missing
from dyrate.analysis.ranking import Ranking
from dyrate.paper.audit.finding import Finding

FIELDS = (
    "group", "model", "method", "decoding", "llm", "benchmark", "task", "metric", "unit", "samples", "units",
    "value", "low", "high", "difference", "difference_low", "difference_high",
    "published_row", "published", "published_bold", "prefill_share", "decode_share", "result", "missing",
)  # fmt: skip


AUDIT_FIELDS = ("where", "check", "verdict", "cells", "evidence")
_FORMULA = re.compile(r"(?![+-]?[0-9.]+$)\s*[=+\-@]|[\t\r\n]")  # a printed number keeps its sign
BUDGET_FIELDS = (
    "model", "method", "decoding", "competitor", "benchmark", "phase", "budget", "prefill_share",
    "decode_share", "mixture", "metric", "unit", "units", "value", "competitor_value",
    "difference", "difference_low", "difference_high", "verdict", "result",
)  # fmt: skip


def write(table: Table, path: Path) -> None:
    """Write the table; empty fields are what was not measured, or not published.

    `missing` says why there is no value where there should be one.
    A text column is the field of its key, and what the paper prints in it that of its key with `published_`.
    """
    texts = [name for column in table.text_columns for name in _text_fields(column)]
    _write(path, (*FIELDS, *texts), _lines(table))


def _lines(table: Table) -> Iterator[dict[str, object]]:
    for group, rows in table.groups:
        for row in rows:
            for column, cell in row.pairs(table.columns):
                if cell.measured or cell.published or cell.missing:
                    line = _published(row, column, cell) | _measured(row, column, cell)
                    yield {"group": group} | line | _texts(table, row)


def _write(path: Path, fields: Sequence[str], lines: Iterable[Mapping[str, object]]) -> None:
    """Write lines as CSV, atomically, with no text that a spreadsheet would take for a formula."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({field: _plain(value) for field, value in line.items()} for line in lines)
    files.write_text(path, stream.getvalue())


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


COST_FIELDS = (
    "model", "method", "decoding", "benchmark", "convention", "scope", "text_tokens", "new_tokens",
    "tera", "percent", "result",
)  # fmt: skip


def write_costs(measurements: Sequence[Measurement], path: Path) -> None:
    """Write the FLOPs of every row: one line per measurement, benchmark, convention and scope."""
    _write(path, COST_FIELDS, lines(measurements))


def write_missing(missing: Iterable[Missing], path: Path) -> None:
    """Write what the study asks for and does not have, one thing a line."""
    _write(path, ("what", "why"), (asdict(one) for one in missing))


def write_findings(findings: Iterable[Finding], path: Path) -> None:
    """Write the audit of the printed tables: one line per finding."""
    lines = ((f.where, f.check, f.verdict, "; ".join(f.cells), f.evidence) for f in findings)
    _write(path, AUDIT_FIELDS, (dict(zip(AUDIT_FIELDS, line, strict=True)) for line in lines))


def write_standings(standings: Iterable[Standing], path: Path) -> None:
    """Write the comparison at equal budget: one line per DyRate setting, competitor and benchmark."""
    _write(path, BUDGET_FIELDS, (_compared(c) for standing in standings for c in standing.comparisons))


RANKING_FIELDS = (
    "model", "budget", "method", "control", "kept_percent", "low", "high", "rank_from", "rank_to",
    "prefill_share", "settings", "benchmarks",
)  # fmt: skip


def write_rankings(rankings: Iterable[Ranking], path: Path) -> None:
    """Write the rankings of all methods: one line per model, budget and method, best first."""
    _write(path, RANKING_FIELDS, (line for ranking in rankings for line in _ranked(ranking)))


def _ranked(ranking: Ranking) -> Iterator[dict[str, object]]:
    for place in ranking.places:
        first, last = ranking.ranks(place)
        yield {
            "model": ranking.model,
            "budget": ranking.budget,
            "method": place.name,
            "control": "yes" if place.control else None,
            "kept_percent": place.kept["value"],
            "low": place.kept["low"],
            "high": place.kept["high"],
            "rank_from": first,
            "rank_to": last,
            "prefill_share": place.spent,
            "settings": " + ".join(m.title for m in place.settings),
            "benchmarks": " ".join(ranking.benchmarks),
        }


def _compared(c: Comparison) -> dict[str, object]:
    return {
        "model": c.mine.model,
        "method": c.mine.label,
        "decoding": c.mine.decoding,
        "competitor": c.competitor,
        "benchmark": c.benchmark,
        "phase": c.phase,
        "budget": c.budget,
        "prefill_share": c.own.prefill,
        "decode_share": c.own.decode,
        "mixture": " + ".join(f"{weight:.4f} {m.label}" for weight, m in c.parts),
        "metric": c.mine.result["benchmarks"][c.benchmark]["primary"],
        "unit": c.unit,
        "units": len(c.whole.units),
        "value": c.score,
        "competitor_value": c.competitor_score,
        "difference": c.difference["value"],
        "difference_low": c.difference["low"],
        "difference_high": c.difference["high"],
        "verdict": c.verdict,
        "result": c.mine.files.result.as_posix(),
    }


def _text_fields(column: TextColumn) -> tuple[str, ...]:
    return (column.key, f"published_{column.key}") if column.published else (column.key,)


def _texts(table: Table, row: Row) -> dict[str, object]:
    fields: dict[str, object] = {}
    for column, cell in row.text_pairs(table.text_columns):
        fields |= dict(zip(_text_fields(column), (cell.measured, cell.published), strict=False))
    return fields


def _published(row: Row, column: Column, cell: Cell) -> dict[str, object]:
    fields: dict[str, object] = {"benchmark": column.benchmark}
    if row.printed:
        fields |= {
            "llm": row.printed.llm,
            "published_row": row.printed.name,
            "published": cell.published,
            "published_bold": "yes" if cell.printed_bold else None,
        }
    return fields


def _measured(row: Row, column: Column, cell: Cell) -> dict[str, object]:
    m, score = row.measurement, cell.measured
    if m is None or (score is None and cell.missing is None):
        return {}
    named = {"model": m.model, "method": m.title, "decoding": m.decoding}
    if score is None:
        return {**named, "missing": cell.missing}
    return {
        **named,
        "task": m.result["benchmarks"][column.benchmark]["task"],
        "metric": score.metric,
        "unit": score.unit,
        "samples": score.samples,
        "units": score.units,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "difference": score.difference,
        "difference_low": score.difference_low,
        "difference_high": score.difference_high,
        "prefill_share": row.budget.prefill,
        "decode_share": row.budget.decode,
        "result": m.files.result.as_posix(),
    }
