"""What a table is made of: rows of cells in which a measured and a published figure stand side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dyrate.analysis.measurements import Budget, Measurement, budget, primary, span, units, verdict
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.results import Difference
from dyrate.paper.published import PublishedRow

# What is counted where it is not the sample, by kind of benchmark.
ITEMS = {"circular": "questions", "pairs": "pairs", "caption": "images"}


@dataclass(frozen=True)
class Column:
    """A benchmark's column: how it is headed, and which column of the published CSV stands beside it."""

    benchmark: str
    heading: str
    metric: str
    published: str | None
    note: str = ""  # key of a footnote


@dataclass(frozen=True)
class TextColumn:
    """A column that is no benchmark's: figures, or a word like them; `key` names it in the CSV.

    `prose` is for what runs over several words, which is set from the left.
    """

    key: str
    heading: str
    metric: str = ""
    published: str | None = None  # column of the published CSV
    note: str = ""  # key of a footnote
    prose: bool = False


@dataclass(frozen=True)
class Measured:
    """A measured score with its 95% interval and its paired difference to what the table compares with."""

    value: float
    low: float | None
    high: float | None
    metric: str
    unit: str
    samples: int
    units: int | None  # what the interval resamples: samples, pairs, circular questions
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: Literal["better", "worse", "open"] | None = None
    best: bool = False
    near: bool = False  # not the best, but the best lies within its interval


@dataclass(frozen=True)
class Cell:
    """One benchmark of one row: measured, published, both or neither."""

    measured: Measured | None
    published: str | None  # as printed
    printed_bold: bool
    missing: str | None = None  # why nothing was measured, where it should have been


@dataclass(frozen=True)
class TextCell:
    """One text column of one row: what is so here, and what is printed."""

    measured: str | None
    published: str | None
    missing: str | None = None


@dataclass(frozen=True)
class Row:
    """One row: a printed one, a measured one, or both side by side; cells are in the columns' order."""

    printed: PublishedRow | None
    measurement: Measurement | None
    budget: Budget
    cells: tuple[Cell, ...]
    texts: tuple[TextCell, ...] = ()

    def why_not(self, benchmark: str) -> str | None:
        """Why nothing was measured on a benchmark, where it should have been."""
        return self.measurement.missing.get(benchmark) if self.measurement else None

    def pairs(self, columns: Sequence[Column]) -> Iterable[tuple[Column, Cell]]:
        """Each benchmark's column with its cell."""
        return zip(columns, self.cells, strict=True)

    def text_pairs(self, columns: Sequence[TextColumn]) -> Iterable[tuple[TextColumn, TextCell]]:
        """Each text column with its cell."""
        return zip(columns, self.texts, strict=True)


@dataclass(frozen=True)
class Table:
    """A table, filled in; `against` says what differences are taken from."""

    key: str
    number: str
    title: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    notes: Mapping[str, str]
    text_columns: tuple[TextColumn, ...] = ()
    lede: str = ""
    against: str = "the unpruned model"

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows in order."""
        return tuple(row for _, rows in self.groups for row in rows)

    @property
    def measured(self) -> bool:
        """Whether it has a row that was measured, or should have been."""
        return any(row.measurement for row in self.rows)

    @property
    def missing(self) -> bool:
        """Whether anything in it is missing."""
        return any(
            any(cell.missing for cell in row.cells) or any(cell.missing for cell in row.texts)
            for row in self.rows
        )

    @property
    def many_decodings(self) -> bool:
        """Whether rows must say how they decode."""
        return len({row.measurement.decoding for row in self.rows if row.measurement}) > 1

    @property
    def width(self) -> int:
        """Cells of a row, the two that name it and its budget included."""
        columns: list[Column | TextColumn] = [*self.columns, *self.text_columns]
        return 2 + sum(2 if column.published else 1 for column in columns)

    @property
    def footnotes(self) -> tuple[str, ...]:
        """The notes that some column asks for, in the order of their letters."""
        columns: list[Column | TextColumn] = [*self.columns, *self.text_columns]
        asked = {column.note for column in columns}
        return tuple(text for key, text in self.notes.items() if key in asked)

    @property
    def counts(self) -> tuple[str, ...]:
        """Per column, on how many items its measured figures rest: "n = 50 pairs"; empty if unknown."""
        columns = range(len(self.columns))
        cells = [[row.cells[i] for row in self.rows] for i in columns]
        spans = [span(cell.measured.units for cell in column if cell.measured) for column in cells]
        kinds = [ITEMS.get(BENCHMARKS[column.benchmark].kind, "") for column in self.columns]
        return tuple(f"n = {n} {kind}".strip() if n else "" for n, kind in zip(spans, kinds, strict=True))


def merge(
    columns: Sequence[Column],
    printed: Sequence[PublishedRow],
    pairs: Mapping[str, Measurement],
    extra: Sequence[Measurement],
    measurements: Sequence[Measurement],
) -> list[Row]:
    """Printed rows in order, each with its measurement, which `pairs` has by the row's title.

    Further settings of a method follow its last row.
    """
    rows = [fill(columns, row, pairs.get(row.title), measurements) for row in printed]
    for m in extra:
        same = [i for i, row in enumerate(rows) if row.measurement and row.measurement.method == m.method]
        rows.insert(same[-1] + 1 if same else len(rows), fill(columns, None, m, measurements))
    return rows


def fill(
    columns: Sequence[Column],
    printed: PublishedRow | None,
    measurement: Measurement | None,
    measurements: Sequence[Measurement],
) -> Row:
    """A row of one measurement, beside what is printed."""
    cells = tuple(_cell(column, printed, measurement) for column in columns)
    names = [column.benchmark for column in columns]
    spent = budget(measurement, names, measurements) if measurement else Budget(None, None)
    return Row(printed, measurement, spent, cells)


def with_texts(
    row: Row,
    columns: Sequence[TextColumn],
    measured: Mapping[str, str | None] | None = None,
    missing: Mapping[str, str | None] | None = None,
) -> Row:
    """The row with its text cells: what is so here by the column's key (or why not), and what is printed."""
    values = row.printed.values if row.printed else {}
    here = measured or {}
    texts = (
        TextCell(
            here.get(column.key),
            values.get(column.published) if column.published else None,
            None if here.get(column.key) else (missing or {}).get(column.key),
        )
        for column in columns
    )
    return replace(row, texts=tuple(texts))


def compared(
    score: Measured, difference: Difference | None, higher_is_better: bool | None = True
) -> Measured:
    """The score with its paired difference to what the table compares with, or without one."""
    value, low, high = (difference[key] if difference else None for key in ("value", "low", "high"))
    decided = verdict(difference, higher_is_better)
    return replace(score, difference=value, difference_low=low, difference_high=high, verdict=decided)


def finish(table: Table) -> Table:
    """The table without empty groups, and with the best measured score per model and column marked."""
    best: dict[tuple[str, int], float] = {}
    for row in table.rows:
        for i, cell in enumerate(row.cells):
            if row.measurement and cell.measured:
                key = (row.measurement.reference, i)
                best[key] = max(best.get(key, cell.measured.value), cell.measured.value)
    groups = tuple(
        (name, tuple(_with_best(row, best) for row in rows)) for name, rows in table.groups if rows
    )
    return replace(table, groups=groups)


def _cell(column: Column, printed: PublishedRow | None, measurement: Measurement | None) -> Cell:
    number = printed.values[column.published] if printed and column.published else None
    bold = bool(printed and column.published in printed.bold)
    benchmark = measurement.benchmark(column.benchmark) if measurement else None
    if benchmark is None:
        return Cell(None, number, bold, measurement.missing.get(column.benchmark) if measurement else None)
    score, difference = primary(benchmark)
    measured = Measured(
        value=score["value"],
        low=score["low"],
        high=score["high"],
        metric=benchmark["primary"],
        unit=score["unit"],
        samples=benchmark["samples"],
        units=units(column.benchmark, benchmark),
    )
    return Cell(compared(measured, difference, score["higher_is_better"]), number, bold)


def _with_best(row: Row, best: Mapping[tuple[str, int], float]) -> Row:
    def mark(i: int, cell: Cell) -> Cell:
        if not row.measurement or row.measurement.system or not cell.measured:
            return cell
        score, top = cell.measured, best[row.measurement.reference, i]
        is_best = score.value == top
        near = not is_best and score.high is not None and score.high >= top
        return replace(cell, measured=replace(score, best=is_best, near=near))

    return replace(row, cells=tuple(mark(i, cell) for i, cell in enumerate(row.cells)))
