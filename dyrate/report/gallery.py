"""A handful of sample answers with their images, chosen by a rule and not by eye."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from dyrate.report.measured import NONE, Measurement

EDGE = 336  # longest side of a thumbnail, in pixels


@dataclass(frozen=True)
class Answer:
    """An answer and the methods that gave it; `score` is the sample's own, 0 to 1, None where it has none."""

    text: str
    score: float | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One question, its image (a data URI, or None), its references and its answers, equal ones joined."""

    benchmark: str
    question: str
    references: tuple[str, ...]
    answers: tuple[Answer, ...]
    image: str | None


def samples(
    measurements: Sequence[Measurement], benchmarks: Sequence[str], data: Path | None
) -> tuple[str, tuple[Sample, ...]]:
    """The model shown, and per benchmark the first sample on which the methods' answers differ.

    The model is the first whose unpruned answers are there. `data` holds <benchmark>.parquet with the images.
    """
    with_answers = [m for m in measurements if m.files.answers.exists()]
    shown = next((m.model for m in with_answers if m.method == NONE), None)
    if shown is None:
        return "", ()
    tables = [(m, _answers(m)) for m in with_answers if m.model == shown]
    chosen = (_first_disagreement(name, tables, data) for name in benchmarks)
    return shown, tuple(sample for sample in chosen if sample)


Answers = dict[tuple[str, int], dict[str, Any]]


def _answers(m: Measurement) -> Answers:
    rows = pq.read_table(m.files.answers).to_pylist()
    return {(row["benchmark"], row["doc_id"]): row for row in rows}


def _first_disagreement(
    benchmark: str, tables: Sequence[tuple[Measurement, Answers]], data: Path | None
) -> Sample | None:
    common = set.intersection(*({key for key in rows if key[0] == benchmark} for _, rows in tables))
    for key in sorted(common):
        rows = [(m, answers[key]) for m, answers in tables]
        if len({row["answer"].strip() for _, row in rows}) > 1:
            first = rows[0][1]
            return Sample(
                benchmark=benchmark,
                question=first["prompt"].replace("<image>", "").strip(),
                references=_references(first["reference"]),
                answers=_joined(rows),
                image=_image(data, benchmark, key[1]),
            )
    return None


def _joined(rows: Sequence[tuple[Measurement, dict[str, Any]]]) -> tuple[Answer, ...]:
    labels: dict[tuple[str, float | None], list[str]] = {}
    for m, row in rows:
        labels.setdefault((row["answer"].strip(), _score(row)), []).append(m.label)
    return tuple(Answer(text, score, tuple(found)) for (text, score), found in labels.items())


def _references(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    return tuple(dict.fromkeys(map(str, found))) if isinstance(found, list) else (str(found),)


def _score(row: dict[str, Any]) -> float | None:
    score = row.get("score")
    return None if score is None else float(score)


def _image(data: Path | None, benchmark: str, row: int) -> str | None:
    path = data / f"{benchmark}.parquet" if data else None
    if path is None or not path.exists():
        return None
    column = pq.read_table(path, columns=["image"]).column("image")
    if row >= len(column):
        return None
    image = Image.open(io.BytesIO(column[row].as_py()["bytes"])).convert("RGB")
    image.thumbnail((EDGE, EDGE))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
