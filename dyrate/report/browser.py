"""Every sample of a study for the page's own browser: small JSON blocks, one to a benchmark, read on demand.

A block has a line per sample: its question, references, the different answers with their scores, and for
each row of the study which of these it gave. What would make the page heavy is left out by the end of a
block, never by content, and counted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.tables import heading
from dyrate.evaluation import answers
from dyrate.evaluation.scoring import Sample
from dyrate.report import gallery
from dyrate.report.html import data_block

TEXT_BYTES, IMAGE_BYTES = 5_000_000, 4_000_000  # of all blocks together
EDGE = 128  # longest side of a thumbnail, in pixels
REFERENCES = 5  # shown of a sample's


@dataclass(frozen=True)
class Block:
    """The samples of one benchmark."""

    benchmark: str
    title: str
    shown: int
    samples: int
    data: Markup


@dataclass(frozen=True)
class Browser:
    """All of it; `index` names the rows that the blocks refer to by number."""

    index: Markup
    blocks: tuple[Block, ...]
    rows: int
    held: frozenset[tuple[str, str]]
    """(key of a measurement, benchmark) of everything that can be looked up."""

    @property
    def shown(self) -> int:
        """Samples in the page."""
        return sum(block.shown for block in self.blocks)

    @property
    def left_out(self) -> int:
        """Samples that would have made it too heavy."""
        return sum(block.samples - block.shown for block in self.blocks)


def browser(
    measurements: Sequence[Measurement], benchmarks: Sequence[str], data: Path | None
) -> Browser | None:
    """Gather the answers of all measurements that left some; None where none did.

    `data` holds <benchmark>.parquet with the images, if these are on this machine.
    """
    rows = [m for m in measurements if m.files.answers.exists()]
    given = [answers.read(m.files.answers, m.result) for m in rows]
    names = [name for name in benchmarks if any(name in found for found in given)]
    if not names:
        return None
    blocks = []
    for name in names:
        samples = [{s.doc_id: s for s in found.get(name, ())} for found in given]
        blocks.append(_block(name, samples, data, len(names)))
    index = [
        {
            "key": m.key,
            "label": m.title,
            "model": m.model,
            "decoding": m.decoding,
            "whole": rows.index(whole) if m.kind != NONE and (whole := m.unpruned) in rows else None,
        }
        for m in rows
    ]
    held = {(m.key, name) for m, found in zip(rows, given, strict=True) for name in names if found.get(name)}
    return Browser(data_block(index), tuple(blocks), len(rows), frozenset(held))


def _block(benchmark: str, given: Sequence[Mapping[int, Sample]], data: Path | None, blocks: int) -> Block:
    doc_ids = sorted(set().union(*given))
    images = _images(data, benchmark, doc_ids, IMAGE_BYTES // blocks)
    lines: list[Any] = []
    left = TEXT_BYTES // blocks
    for doc_id in doc_ids:
        line = _line(doc_id, [found.get(doc_id) for found in given])
        left -= len(json.dumps(line, ensure_ascii=False).encode())
        if left < 0 and lines:
            break
        lines.append([*line, images.get(doc_id, "")])
    return Block(benchmark, heading(benchmark), len(lines), len(doc_ids), data_block(lines))


def _line(doc_id: int, given: Sequence[Sample | None]) -> list[Any]:
    """[row of the data, question, references, [[answer, score, scale]...], [number of the answer...]].

    A score is the sample's own, null where none is kept; its scale is 1 (right or wrong) or 100 (CIDEr).
    """
    numbers: dict[tuple[str, float | None, int], int] = {}
    places = [-1 if one is None else numbers.setdefault(_answer(one), len(numbers)) for one in given]
    first = next(one for one in given if one is not None)
    references = list(dict.fromkeys(first.references))
    more = [f"and {len(references) - REFERENCES} more"] if len(references) > REFERENCES else []
    question = first.prompt.replace("<image>", "").strip()
    return [doc_id, question, references[:REFERENCES] + more, [list(one) for one in numbers], places]


def _answer(sample: Sample) -> tuple[str, float | None, int]:
    right = next((sample.scores[name] for name in gallery.RIGHT if name in sample.scores), None)
    if right is None and "CIDEr" in sample.scores:
        return sample.answer.strip(), round(100 * sample.scores["CIDEr"], 1), 100
    return sample.answer.strip(), right, 1


def _images(data: Path | None, benchmark: str, rows: Sequence[int], most: int) -> dict[int, str]:
    """Thumbnails by row, the first ones, as many as `most` bytes hold."""
    found: dict[int, str] = {}
    for row, uri in gallery.images(data, benchmark, rows, EDGE):
        most -= len(uri)
        if most < 0:
            break
        found[row] = uri
    return found
