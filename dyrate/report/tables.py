"""Tables I and II as data: published rows and measured ones laid out as in the paper."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import published
from dyrate.report.measured import Budget, Measurement, budget, primary, span, units, verdict
from dyrate.report.published import PublishedRow
from dyrate.study import Study


@dataclass(frozen=True)
class Column:
    """A benchmark's column: how it is headed, and which column of the published CSV stands beside it."""

    benchmark: str
    heading: str
    metric: str
    published: str | None
    note: str = ""  # key of a footnote


@dataclass(frozen=True)
class Measured:
    """A measured score with its 95% interval and its paired difference to the unpruned model."""

    value: float
    low: float | None
    high: float | None
    metric: str
    unit: str
    samples: int
    units: int | None  # what the interval resamples: samples, pairs, circular questions
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    verdict: Literal["better", "worse", "open"] | None
    best: bool = False


@dataclass(frozen=True)
class Cell:
    """One benchmark of one row: measured, published, both or neither."""

    measured: Measured | None
    published: str | None  # as printed
    printed_bold: bool


@dataclass(frozen=True)
class Row:
    """One row: a printed one, a measured one, or both side by side; `cells` are in the columns' order."""

    printed: PublishedRow | None
    measurement: Measurement | None
    budget: Budget
    cells: tuple[Cell, ...]

    def pairs(self, columns: Sequence[Column]) -> Iterable[tuple[Column, Cell]]:
        """Each column with its cell."""
        return zip(columns, self.cells, strict=True)


@dataclass(frozen=True)
class Table:
    """A table of the paper, filled in."""

    key: str
    number: str
    title: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    notes: dict[str, str]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows in order."""
        return tuple(row for _, rows in self.groups for row in rows)

    @property
    def counts(self) -> tuple[str, ...]:
        """Per column, on how many items its measured figures rest: "n = 50 pairs"; empty if unknown."""
        cells = zip(*(row.cells for row in self.rows), strict=True)
        spans = [span(cell.measured.units for cell in column if cell.measured) for column in cells]
        kinds = [ITEMS.get(BENCHMARKS[column.benchmark].kind, "") for column in self.columns]
        return tuple(f"n = {n} {kind}".strip() if n else "" for n, kind in zip(spans, kinds, strict=True))


# What is counted where it is not the sample, by kind of benchmark.
ITEMS = {"circular": "questions", "pairs": "pairs", "caption": "images"}
TABLE1 = (
    Column("gqa", "GQA", "EM", "gqa_em"),
    Column("vizwiz", "VizWiz", "EM", "vizwiz_em", "a"),
    Column("sqa", "SQA", "EM", "sqa_em"),
    Column("vqav2", "VQA", "EM", "vqa_em", "b"),
    Column("textvqa", "TextVQA", "EM", None, "b"),
    Column("pope", "POPE", "accuracy", "pope_acc"),
    Column("mmb", "MMB", "accuracy", "mmb_acc", "c"),
    Column("mme", "MME", "score", "mme_score", "d"),
)
TABLE2 = (
    Column("nocaps", "NoCaps", "CIDEr", "nocaps_cider"),
    Column("flickr30k", "Flickr30k", "CIDEr", "flickr30k_cider"),
    Column("coco2017", "COCO2017", "CIDEr", "coco2017_cider"),
)
TABLE1_NOTES = {
    "a": "The paper heads VizWiz and VQA 'EM'; what lmms-eval measures, here too, is VQA accuracy: "
    "agreement with ten annotators.",
    "b": "The paper calls this column VQA, but the 58.2 it prints for LLaVA v1.5 is that model's TextVQA "
    "score (its VQAv2 score is about 78). Published figures stay where the paper prints them. Measured are "
    "both: VQAv2 under VQA, and TextVQA.",
    "c": "Circular evaluation: a question counts only if every rotation of its options is answered rightly.",
    "d": "The paper heads MME 'accuracy' and prints scores; its 1510.7 for LLaVA v1.5 is that model's "
    "perception score. Measured is perception plus cognition, over the categories that the data has.",
}


def heading(benchmark: str) -> str:
    """How the tables head a benchmark."""
    for column in (*TABLE1, *TABLE2):
        if column.benchmark == benchmark:
            return column.heading
    return BENCHMARKS[benchmark].title


def table1(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table I: visual question answering and short answers."""
    mine = _standing_for(study, published.TABLE1_MODEL, measurements)
    pairs = _pairs(study, "table1", mine, published.table1())
    unpaired = [m for m in mine if m not in pairs.values()]
    groups: list[tuple[str, list[Row]]] = []
    for title in published.TABLE1_GROUPS:
        printed = [row for row in published.table1() if row.group == title]
        extra = [m for m in unpaired if not m.control] if title == published.TABLE1_GROUPS[-1] else []
        groups.append((title, _merge(TABLE1, printed, pairs, extra, measurements)))
    controls = [m for m in unpaired if m.control]
    groups.append(("Controls", _merge(TABLE1, [], {}, controls, measurements)))
    stands_for = {model.name: model.published for model in study.models}
    for name, others in _by_model(measurements, except_for=mine):
        place = (
            f", in the place of {stands_for[name]}: not in the paper's Table I"
            if stands_for.get(name)
            else ""
        )
        groups.append((f"On {name}{place}", _merge(TABLE1, [], {}, others, measurements)))
    return _finish(
        "table1", "Table I", "Visual question answering and short answers", TABLE1, groups, TABLE1_NOTES
    )


def table2(study: Study, measurements: Sequence[Measurement]) -> Table:
    """Table II: captioning, per model."""
    groups: list[tuple[str, list[Row]]] = []
    placed: list[Measurement] = []
    for model in dict.fromkeys(row.group for row in published.table2()):
        mine = _standing_for(study, model, measurements)
        printed = [row for row in published.table2() if row.group == model]
        pairs = _pairs(study, "table2", mine, printed)
        extra = [m for m in mine if m not in pairs.values()]
        names = [name for name, _ in _by_model(mine)]
        title = (
            f"{model}, beside it {' and '.join(names)}"
            if names and [name.lower() for name in names] != [model.lower()]
            else model
        )
        groups.append((title, _merge(TABLE2, printed, pairs, extra, measurements)))
        placed += mine
    for name, others in _by_model(measurements, except_for=placed):
        groups.append((f"On {name}", _merge(TABLE2, [], {}, others, measurements)))
    return _finish("table2", "Table II", "Captioning", TABLE2, groups, {})


def _standing_for(study: Study, model: str, measurements: Iterable[Measurement]) -> list[Measurement]:
    names = [entry.name for entry in study.models if entry.published == model]
    return [m for m in measurements if m.model in names]


def _by_model(
    measurements: Iterable[Measurement], except_for: Sequence[Measurement] = ()
) -> list[tuple[str, list[Measurement]]]:
    models: dict[str, list[Measurement]] = {}
    for m in measurements:
        if m not in except_for:
            models.setdefault(m.model, []).append(m)
    return list(models.items())


def _pairs(
    study: Study, table: str, mine: Sequence[Measurement], printed: Iterable[PublishedRow]
) -> dict[str, Measurement]:
    """Which measurement stands beside which printed row: the study's first job that names the row."""
    rows = {row.name for row in printed}  # a row that this model does not have pairs with nothing
    by_path = {m.files.result.as_posix(): m for m in mine}
    pairs: dict[str, Measurement] = {}
    for job in study.jobs:
        row = job.method.published.get(table)
        if row in rows and job.result in by_path:
            pairs.setdefault(row, by_path[job.result])
    return pairs


def _merge(
    columns: Sequence[Column],
    printed: Sequence[PublishedRow],
    pairs: dict[str, Measurement],
    extra: Sequence[Measurement],
    measurements: Sequence[Measurement],
) -> list[Row]:
    """Printed rows in order, each with its measurement; further settings of a method follow its last row."""
    rows = [_row(columns, row, pairs.get(row.name), measurements) for row in printed]
    for m in extra:
        same = [i for i, row in enumerate(rows) if row.measurement and row.measurement.method == m.method]
        rows.insert(same[-1] + 1 if same else len(rows), _row(columns, None, m, measurements))
    return rows


def _row(
    columns: Sequence[Column],
    printed: PublishedRow | None,
    measurement: Measurement | None,
    measurements: Sequence[Measurement],
) -> Row:
    cells = tuple(_cell(column, printed, measurement) for column in columns)
    names = [column.benchmark for column in columns]
    spent = budget(measurement, names, measurements) if measurement else Budget(None, None)
    return Row(printed, measurement, spent, cells)


def _cell(column: Column, printed: PublishedRow | None, measurement: Measurement | None) -> Cell:
    number = printed.values[column.published] if printed and column.published else None
    bold = bool(printed and column.published in printed.bold)
    benchmark = measurement.benchmark(column.benchmark) if measurement else None
    if benchmark is None:
        return Cell(None, number, bold)
    score, difference = primary(benchmark)
    measured = Measured(
        value=score["value"],
        low=score["low"],
        high=score["high"],
        metric=benchmark["primary"],
        unit=score["unit"],
        samples=benchmark["samples"],
        units=units(column.benchmark, benchmark),
        difference=difference["value"] if difference else None,
        difference_low=difference["low"] if difference else None,
        difference_high=difference["high"] if difference else None,
        verdict=verdict(score, difference),
    )
    return Cell(measured, number, bold)


def _finish(
    key: str,
    number: str,
    title: str,
    columns: tuple[Column, ...],
    groups: list[tuple[str, list[Row]]],
    notes: dict[str, str],
) -> Table:
    table = Table(
        key, number, title, columns, tuple((name, tuple(rows)) for name, rows in groups if rows), notes
    )
    best = _best(table.rows, len(columns))
    return replace(
        table,
        groups=tuple((name, tuple(_with_best(row, best) for row in rows)) for name, rows in table.groups),
    )


def _best(rows: Iterable[Row], columns: int) -> dict[tuple[str, int], float]:
    """The best measured value per model and column; all metrics of these tables are better when higher."""
    best: dict[tuple[str, int], float] = {}
    for row in rows:
        for i in range(columns):
            if row.measurement and (cell := row.cells[i].measured):
                key = (row.measurement.model, i)
                best[key] = max(best.get(key, cell.value), cell.value)
    return best


def _with_best(row: Row, best: dict[tuple[str, int], float]) -> Row:
    def mark(i: int, cell: Cell) -> Cell:
        if row.measurement and cell.measured and cell.measured.value == best[row.measurement.model, i]:
            return replace(cell, measured=replace(cell.measured, best=True))
        return cell

    return replace(row, cells=tuple(mark(i, cell) for i, cell in enumerate(row.cells)))
