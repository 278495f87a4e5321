"""What a table is made of: rows of cells in which a measured and a published figure stand side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dyrate.analysis.measurement import Budget, Measured, Measurement, span
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.paper.published import PublishedRow

# What is counted where it is not the sample, by kind of benchmark.
ITEMS = {"circular": "questions", "pairs": "pairs", "caption": "images"}
Told = Callable[[Measurement], str | None]


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
    here: Told = field(default=lambda m: None, compare=False)
    """What is so of a measurement."""
    why_not: Told = field(default=lambda m: None, compare=False)
    """Why it is not known, where it should be."""


@dataclass(frozen=True)
class Cell:
    """One column of one row: measured, published, both or neither."""

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
    groups: tuple[tuple[str, tuple[Row, ...]], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    text_columns: tuple[TextColumn, ...] = ()
    lede: str = ""
    against: str = "the unpruned model"
    score: Callable[[Measurement, str], Measured | None] = field(default=Measurement.score, repr=False)
    """Of a benchmark, with its difference to that."""

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
        missing = [
            [cell.missing for cell in row.cells] + [text.missing for text in row.texts] for row in self.rows
        ]
        return any(map(any, missing))

    @property
    def many_decodings(self) -> bool:
        """Whether rows must say how they decode."""
        return len({row.measurement.decoding for row in self.rows if row.measurement}) > 1

    @property
    def all_columns(self) -> tuple[Column | TextColumn, ...]:
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
        cells = [[row.cells[i] for row in self.rows] for i in range(len(self.columns))]
        spans = [span(cell.measured.units for cell in column if cell.measured) for column in cells]
        kinds = [ITEMS.get(BENCHMARKS[column.benchmark].kind, "") for column in self.columns]
        return tuple(f"n = {n} {kind}".strip() if n else "" for n, kind in zip(spans, kinds, strict=True))

    def row(self, printed: PublishedRow | None, m: Measurement | None) -> Row:
        """A row of one measurement, beside what is printed."""
        values, bold = (printed.values, printed.bold) if printed else ({}, frozenset[str]())
        cells, texts = [], []
        for one in self.columns:
            figure = values[one.published] if printed and one.published else None
            score = self.score(m, one.benchmark) if m else None
            missing = None if score or m is None else m.missing.get(one.benchmark)
            cells.append(Cell(score, figure, one.published in bold, missing))
        for text in self.text_columns:
            here = text.here(m) if m else None
            figure = values.get(text.published) if text.published else None
            texts.append(TextCell(here, figure, None if here or m is None else text.why_not(m)))
        spent = m.budget(*(column.benchmark for column in self.columns)) if m else Budget(None, None)
        return Row(printed, m, spent, tuple(cells), tuple(texts))

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
            scores = [
                cell.measured and cell.measured.among(best[m.reference, i])
                for i, cell in enumerate(row.cells)
            ]
            cells = (replace(cell, measured=one) for cell, one in zip(row.cells, scores, strict=True))
            return replace(row, cells=tuple(cells))

        return replace(self, groups=tuple((title, tuple(map(marked, rows))) for title, rows in whole.groups))
