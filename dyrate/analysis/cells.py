"""What a table is made of: rows of cells in which a measured and a published figure stand side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dyrate.analysis.measurement import Budget, Measurement, span
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.paper.published import PublishedRow

# What is counted where it is not the sample, by kind of benchmark.
ITEMS = {"circular": "questions", "pairs": "pairs", "caption": "images"}


@dataclass(frozen=True)
class Cell:
    """One column of one row: measured, published, both or neither."""

    measured: Any  # a `Measured`; in a text column figures, or a word like them
    published: str | None  # as printed
    printed_bold: bool
    missing: str | None = None  # why nothing was measured, where it should have been


@dataclass(frozen=True)
class Column:
    """How a column is headed, what it says of a measurement, and which printed figures stand beside that.

    It is of a benchmark and has its scores, unless `here` says otherwise: then it is a text column, and `key`
    names it in the CSV. `prose` is for what runs over several words, which is set from the left.
    """

    key: str
    heading: str
    metric: str = ""
    published: str | None = None  # column of the published CSV
    note: str = ""  # key of a footnote
    here: Callable[[Measurement], Any] | None = field(default=None, compare=False)
    """What is so of a measurement."""
    why_not: Callable[[Measurement], str | None] | None = field(default=None, compare=False)
    """Why it is not known, where it should be."""
    prose: bool = False

    @property
    def benchmark(self) -> str:
        """The benchmark, unless it is a text column."""
        return self.key

    def cell(self, printed: PublishedRow | None, m: Measurement | None) -> Cell:
        """What stands in it of a measurement, beside what is printed."""
        figure = printed.values.get(self.published) if printed and self.published else None
        bold = printed is not None and self.published in printed.bold
        if m is None:
            return Cell(None, figure, bold)
        here = self.here(m) if self.here else m.score(self.key)
        why_not = self.why_not(m) if self.why_not else m.missing.get(self.key)
        return Cell(here, figure, bold, None if here else why_not)


@dataclass(frozen=True)
class Row:
    """One row: a printed one, a measured one, or both side by side; cells are in the columns' order."""

    printed: PublishedRow | None
    measurement: Measurement | None
    budget: Budget
    cells: tuple[Cell, ...]
    texts: tuple[Cell, ...] = ()

    def pairs(self, columns: Sequence[Column]) -> Iterable[tuple[Column, Cell]]:
        """Each column with its cell: of the benchmarks, or of all."""
        return zip(columns, (*self.cells, *self.texts), strict=False)

    def text_pairs(self, columns: Sequence[Column]) -> Iterable[tuple[Column, Cell]]:
        """Each text column with its cell."""
        return zip(columns, self.texts, strict=True)


@dataclass(frozen=True)
class Table:
    """A table, filled in; `against` says what differences are taken from."""

    key: str
    number: str
    title: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    text_columns: tuple[Column, ...] = ()
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
        return any(cell.missing for row in self.rows for cell in (*row.cells, *row.texts))

    @property
    def many_decodings(self) -> bool:
        """Whether rows must say how they decode."""
        return len({row.measurement.decoding for row in self.rows if row.measurement}) > 1

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """The benchmarks' and the others."""
        return (*self.columns, *self.text_columns)

    @property
    def width(self) -> int:
        """Cells of a row, the two that name it and its budget included."""
        return 2 + sum(2 if column.published else 1 for column in self.all_columns)

    @property
    def footnotes(self) -> tuple[str, ...]:
        """The notes that some column asks for, in the order of their letters."""
        asked = {column.note for column in self.all_columns}
        return tuple(text for key, text in self.notes.items() if key in asked)

    @property
    def counts(self) -> tuple[str, ...]:
        """Per column, on how many items its measured figures rest: "n = 50 pairs"; empty if unknown."""
        found = []
        for i, column in enumerate(self.columns):
            scores = (row.cells[i].measured for row in self.rows)
            n, kind = span(s.units for s in scores if s), ITEMS.get(BENCHMARKS[column.key].kind, "")
            found.append(f"n = {n} {kind}".strip() if n else "")
        return (*found, *[""] * len(self.text_columns))

    def row(self, printed: PublishedRow | None, m: Measurement | None) -> Row:
        """A row of one measurement, beside what is printed."""
        spent = m.budget(*(column.key for column in self.columns)) if m else Budget(None, None)
        cells, texts = (
            tuple(column.cell(printed, m) for column in columns)
            for columns in (self.columns, self.text_columns)
        )
        return Row(printed, m, spent, cells, texts)

    def merged(
        self, printed: Sequence[PublishedRow], pairs: Mapping[str, Measurement], extra: Iterable[Measurement]
    ) -> tuple[Row, ...]:
        """Printed rows in order, each with its measurement, which `pairs` has by the row's title.

        Further settings of a method follow its last row.
        """
        rows = [self.row(row, pairs.get(row.title)) for row in printed]
        for m in extra:
            same = [i for i, row in enumerate(rows) if row.measurement and row.measurement.method == m.method]
            rows.insert(same[-1] + 1 if same else len(rows), self.row(None, m))
        return tuple(rows)

    def filled(self, groups: Iterable[tuple[str, Sequence[Row]]]) -> "Table":
        """The table with these groups but the empty ones, the best measured score per model and column
        marked.
        """
        whole = replace(self, groups=tuple((title, tuple(rows)) for title, rows in groups if rows))
        best: dict[tuple[str, int], float] = {}
        for row in whole.rows:
            for i, cell in enumerate(row.cells):
                if row.measurement and cell.measured:
                    key = (row.measurement.reference, i)
                    best[key] = max(best.get(key, cell.measured.value), cell.measured.value)

        def marked(row: Row) -> Row:
            m = row.measurement
            if m is None or m.system:
                return row
            scores = (c.measured and c.measured.among(best[m.reference, i]) for i, c in enumerate(row.cells))
            cells = (replace(cell, measured=one) for cell, one in zip(row.cells, scores, strict=True))
            return replace(row, cells=tuple(cells))

        return replace(self, groups=tuple((title, tuple(map(marked, rows))) for title, rows in whole.groups))
