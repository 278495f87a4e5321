"""The paper's figures, as printed: reads the CSV files in `published/`."""

import csv
import re
from dataclasses import dataclass
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


@cache
def table1() -> tuple[PublishedRow, ...]:
    """Table I, visual question answering and short answers, in print order."""
    bold: set[tuple[str, ...]] = {(line["model"], line["column"]) for line in _lines("table1_bold.csv")}
    group = 0
    rows = []
    for line in _lines("table1_vqa_short.csv"):
        name, llm, resolution = line.pop("model"), line.pop("llm"), line.pop("resolution")
        printed_bold = _bold(bold, (name,), line)
        rows.append(PublishedRow(TABLE1_GROUPS[group], name, _values(line), printed_bold, llm, resolution))
        group += name in LAST_ROWS
    return tuple(rows)


@cache
def table2() -> tuple[PublishedRow, ...]:
    """Table II, captioning CIDEr, in print order; `group` is the model."""
    bold: set[tuple[str, ...]] = {
        (line["model"], line["method"], line["column"]) for line in _lines("table2_bold.csv")
    }
    rows = []
    for line in _lines("table2_captioning.csv"):
        model, method = line.pop("model"), line.pop("method")
        rows.append(PublishedRow(model, method, _values(line), _bold(bold, (model, method), line)))
    return tuple(rows)


@cache
def table3() -> tuple[PublishedRow, ...]:
    """Table III, FLOPs, latency and NoCaps CIDEr, in print order; `group` is the model."""
    return tuple(
        PublishedRow(line.pop("model"), line.pop("method"), _values(line), frozenset())
        for line in _lines("table3_efficiency.csv")
    )


@cache
def strategy() -> tuple[PublishedRow, ...]:
    """The ablation of pruning strategies: NoCaps CIDEr and FLOPs; the paper names no model."""
    return _ablation("ablation_strategy.csv")


@cache
def decoding() -> tuple[PublishedRow, ...]:
    """The ablation of decoding strategies, DyRate alone: NoCaps CIDEr; the paper names no model."""
    return _ablation("ablation_decoding.csv")


def _ablation(name: str) -> tuple[PublishedRow, ...]:
    return tuple(PublishedRow("", line.pop("strategy"), _values(line), frozenset()) for line in _lines(name))


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


def _values(line: dict[str, str]) -> dict[str, str | None]:
    return {column: text or None for column, text in line.items()}


def _bold(bold: set[tuple[str, ...]], row: tuple[str, ...], line: dict[str, str]) -> frozenset[str]:
    return frozenset(column for column in line if (*row, column) in bold)
