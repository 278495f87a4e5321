"""The paper's figures, as printed: reads the CSV files in `published/`."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from dyrate import files
from dyrate.errors import DyrateError

FOLDER = Path(__file__).with_name("published")
TABLE1_MODEL = "LLaVA-1.5-7B"  # Table I's token-reduction rows are of this model
TABLE1_GROUPS = ("Independently designed", "LLaVA-derived", "Token reduction")
# The notes on the paper name the groups but not their boundaries: these rows are read as each group's last.
LAST_ROWS = ("Qwen-VL-Chat", "LLaVA v1.5", "DyRate")


_PRINTED = {
    "table1_vqa_short.csv": 16, "table1_bold.csv": 7, "table2_captioning.csv": 10, "table2_bold.csv": 6,
    "table3_efficiency.csv": 10, "ablation_strategy.csv": 4, "ablation_decoding.csv": 4,
}  # fmt: skip
_NUMBERS = ("_em", "_acc", "_score", "_cider", "_percent", "_ms", "resolution")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class PublishedRow:
    """One printed row: `values` by CSV column, as printed (None for a dash), and the `bold` columns."""

    group: str
    name: str
    values: dict[str, str | None]
    bold: frozenset[str]
    llm: str = ""
    resolution: str = ""

    @property
    def title(self) -> str:
        """The name, with the size of its language model where the table has one: two rows have one name."""
        return f"{self.name} ({self.llm.rpartition('-')[2]})" if self.llm else self.name

    def number(self, column: str) -> float:
        """Return the figure of a column; NaN for a dash."""
        return float(self.values[column] or "nan")


@cache
def table1() -> tuple[PublishedRow, ...]:
    """Table I, visual question answering and short answers, in print order."""
    group, rows = 0, []
    for row in _rows("table1_vqa_short.csv", "model", bold="table1_bold.csv"):
        llm, resolution = (row.values.pop(column) or "" for column in ("llm", "resolution"))
        rows.append(replace(row, group=TABLE1_GROUPS[group], llm=llm, resolution=resolution))
        group += row.name in LAST_ROWS
    return tuple(rows)


@cache
def table2() -> tuple[PublishedRow, ...]:
    """Table II, captioning CIDEr, in print order; `group` is the model."""
    return tuple(_rows("table2_captioning.csv", "method", "model", bold="table2_bold.csv"))


@cache
def table3() -> tuple[PublishedRow, ...]:
    """Table III, FLOPs, latency and NoCaps CIDEr, in print order; `group` is the model."""
    return tuple(_rows("table3_efficiency.csv", "method", "model"))


@cache
def strategy() -> tuple[PublishedRow, ...]:
    """The ablation of pruning strategies: NoCaps CIDEr and FLOPs; the paper names no model."""
    return tuple(_rows("ablation_strategy.csv", "strategy"))


@cache
def decoding() -> tuple[PublishedRow, ...]:
    """The ablation of decoding strategies, DyRate alone: NoCaps CIDEr; the paper names no model."""
    return tuple(_rows("ablation_decoding.csv", "strategy"))


def _rows(file: str, *keys: str, bold: str | None = None) -> Iterator[PublishedRow]:
    """Yield the rows of a file whose columns `keys` are the row's name and, where there is one, its group."""
    printed_bold = {tuple(line.values()) for line in _lines(bold)} if bold else set()
    for line in _lines(file):
        name, *group = (line.pop(key) for key in keys)
        in_bold = frozenset(column for column in line if (*group, name, column) in printed_bold)
        values = {column: text or None for column, text in line.items()}
        yield PublishedRow("".join(group), name, values, in_bold)


def _lines(name: str) -> list[dict[str, str]]:
    """The lines of one of the files, by column; a `DyrateError` for what was not printed like that."""
    path = FOLDER / name
    rows = list(csv.reader(files.read_bytes(path).decode().splitlines()))
    if len(rows) != 1 + _PRINTED[name]:
        raise DyrateError(f"{path}: {len(rows) - 1} rows; the paper prints {_PRINTED[name]}")
    header, *lines = rows
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise DyrateError(f"{path}: line {number}: {len(line)} cells under {len(header)} columns")
        for column, text in zip(header, line, strict=True):
            if column.endswith(_NUMBERS) and text and not _NUMBER.fullmatch(text):
                raise DyrateError(f"{path}: line {number}: {column}: {text!r} is no number")
    return [dict(zip(header, line, strict=True)) for line in lines]
