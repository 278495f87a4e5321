"""What a check finds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dyrate.paper.published import PublishedRow
from dyrate.words import sentences

HEADINGS = {
    "gqa_em": "GQA", "vizwiz_em": "VizWiz", "sqa_em": "SQA", "vqa_em": "VQA", "pope_acc": "POPE",
    "mmb_acc": "MMB", "mme_score": "MME", "nocaps_cider": "NoCaps", "flickr30k_cider": "Flickr30k",
    "coco2017_cider": "COCO2017", "tflops_percent": "TFLOPs(%)", "flops_percent": "FLOPs(%)",
}  # fmt: skip
"""The columns of our CSV files as the paper heads them."""
Verdict = Literal["consistent", "inconsistent", "cannot be told"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on some printed cells."""

    check: str
    where: str
    """The table or tables."""
    cells: tuple[str, ...]
    """The cells it is about, as printed."""
    verdict: Verdict
    evidence: str


say = sentences(Path(__file__).parent)


def find(check: str, where: str, cells: Iterable[str], verdict: Verdict, **facts: Any) -> Finding:
    """Return the finding of a check, in its words."""
    return Finding(say(check, **facts), where, tuple(cells), verdict, say(f"{check}_found", **facts))


def cell(row: PublishedRow, column: str) -> str:
    """Return a cell in words: `DyRate (LLaVA-1.5-7B), NoCaps: 75.00`."""
    group = f" ({row.group})" if row.group.startswith("LLaVA-1.5") else ""
    return f"{row.name}{group}, {HEADINGS[column]}: {row.values[column]}"


def numbers(rows: Iterable[PublishedRow], column: str) -> list[PublishedRow]:
    """Return the rows that print a number in a column."""
    return [row for row in rows if row.values[column] is not None]
