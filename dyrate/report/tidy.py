"""A table as CSV: one line per row and benchmark, measured and published side by side."""

import csv
from pathlib import Path

from dyrate.report.tables import Cell, Column, Row, Table

FIELDS = (
    "group", "model", "method", "decoding", "llm", "benchmark", "task", "metric", "unit", "samples", "units",
    "value", "low", "high", "difference", "difference_low", "difference_high",
    "published_row", "published", "published_bold", "prefill_share", "decode_share", "result",
)  # fmt: skip


def write(table: Table, path: Path) -> None:
    """Write the table; empty fields are what was not measured, or not published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        for group, rows in table.groups:
            for row in rows:
                for column, cell in zip(table.columns, row.cells, strict=True):
                    if cell.measured or cell.published:
                        writer.writerow(
                            {"group": group} | _published(row, column, cell) | _measured(row, column, cell)
                        )


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
    if m is None or score is None:
        return {}
    return {
        "model": m.model,
        "method": m.label,
        "decoding": m.decoding,
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
