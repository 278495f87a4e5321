"""A handful of sample answers with their images, chosen by a rule and not by eye."""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dyrate.analysis.measurement import NONE, Measurement
from dyrate.errors import DyrateError
from dyrate.evaluation import answers
from dyrate.evaluation.scoring import Sample

EDGE = 336  # longest side of a thumbnail, in pixels
RIGHT = ("exact_match", "accuracy", "correct")  # a sample's own score, 0 to 1, by kind of benchmark


@dataclass(frozen=True)
class Answer:
    """An answer and the methods that gave it; `right` is its score (0 to 1), `cider` a caption's, or None."""

    text: str
    right: float | None
    cider: float | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """One question, its image (a data URI, or None), its references and its answers, equal ones joined."""

    benchmark: str
    question: str
    references: tuple[str, ...]
    answers: tuple[Answer, ...]
    image: str | None


def cards(
    measurements: Sequence[Measurement], benchmarks: Sequence[str], data: Path | None
) -> tuple[str, tuple[Card, ...]]:
    """The model shown, and per benchmark the first sample on which the methods' answers differ.

    The model is the first whose unpruned answers are there. `data` holds <benchmark>.parquet with the images.
    """
    with_answers = [m for m in measurements if m.files.answers.exists()]
    shown = next((m.model for m in with_answers if m.method == NONE), "")
    answered = [(m, answers.read(m.files.answers, m.result)) for m in with_answers if m.model == shown]
    chosen = (_first_disagreement(name, answered, data) for name in benchmarks) if shown else ()
    return shown, tuple(card for card in chosen if card)


def _first_disagreement(
    benchmark: str, answered: Sequence[tuple[Measurement, Mapping[str, list[Sample]]]], data: Path | None
) -> Card | None:
    by_doc = [
        (m, {s.doc_id: s for s in samples[benchmark]}) for m, samples in answered if benchmark in samples
    ]
    if not by_doc:
        return None
    for doc_id in sorted(set.intersection(*(set(samples) for _, samples in by_doc))):
        given = [(m, samples[doc_id]) for m, samples in by_doc]
        if len({sample.answer.strip() for _, sample in given}) > 1:
            first = given[0][1]
            return Card(
                benchmark=benchmark,
                question=first.prompt.replace("<image>", "").strip(),
                references=tuple(dict.fromkeys(first.references)),
                answers=_joined(given),
                image=_image(data, benchmark, doc_id),
            )
    return None


def _joined(given: Sequence[tuple[Measurement, Sample]]) -> tuple[Answer, ...]:
    labels: dict[tuple[str, float | None, float | None], list[str]] = {}
    for m, sample in given:
        right = next((sample.scores[name] for name in RIGHT if name in sample.scores), None)
        labels.setdefault((sample.answer.strip(), right, sample.scores.get("CIDEr")), []).append(m.label)
    return tuple(Answer(*answer, tuple(names)) for answer, names in labels.items())


def _image(data: Path | None, benchmark: str, row: int) -> str | None:
    return next((uri for _, uri in images(data, benchmark, [row], EDGE)), None)


def images(data: Path | None, benchmark: str, rows: Iterable[int], edge: int) -> Iterator[tuple[int, str]]:
    """(row, its image as a data URI) of those that there are, made no larger than `edge` pixels."""
    path = data / f"{benchmark}.parquet" if data else None
    if path is None or not path.exists():
        return
    column = None
    for row in rows:
        try:
            column = pq.read_table(path, columns=["image"]).column("image") if column is None else column
            if row >= len(column):
                continue
            image = Image.open(io.BytesIO(column[row].as_py()["bytes"])).convert("RGB")
        except (pa.ArrowException, OSError, TypeError, KeyError, Image.DecompressionBombError) as error:
            raise DyrateError(
                f"{path}: the image of row {row} cannot be read ({error}); make the file again"
            ) from None
        image.thumbnail((edge, edge))
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=82 if edge == EDGE else 60, method=4)
        yield row, "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
