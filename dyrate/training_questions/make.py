"""Makes the file of training questions: read, held against every picture of the benchmarks, written."""

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from tqdm import tqdm

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.evaluation import provenance
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.predictor_training.recipe import Recipe
from dyrate.question_files import decoded
from dyrate.training_questions.cauldron import CAPTIONS, QUESTIONS, Subset, reading, rows_of
from dyrate.training_questions.job import TrainingQuestions
from dyrate.training_questions.pictures import ALIKE, KnownPictures, Likeness, pictures_of
from dyrate.training_questions.record import SCHEMA, images_folder, record_path

_CAPTIONS = float(Recipe.model_fields["caption_share"].default)


def make(job: TrainingQuestions) -> dict[str, Any]:
    """Write the questions, their images and the record, which is returned.

    Questions and captions come in turn, in the share that predictors of the testbed are trained with, one of
    an image. Raises `DyrateError` where the source or a benchmark cannot be read: the check is never left
    out. Then nothing is written but images.
    """
    streams: dict[Subset, _Stream] = {}
    commit = job.revision
    for subset in (QUESTIONS, CAPTIONS):  # both, before the benchmarks are read, which takes long
        rows, commit = rows_of(job.source, commit, subset, job.seed)
        streams[subset] = _Stream(job, subset, rows)
    known, checked = _benchmarks(job)
    folder = images_folder(job.output)
    files.make_folder(folder)
    used: set[str] = set()
    nearest = Likeness("", -1.0)
    lines = []
    for number in tqdm(range(job.rows), unit="row", mininterval=0.5 if sys.stderr.isatty() else 20):
        caption = int((number + 1) * _CAPTIONS) > int(number * _CAPTIONS)
        taken = streams[CAPTIONS if caption else QUESTIONS].next(known, used)
        nearest = max(nearest, taken.likeness, key=lambda one: one.value)
        path = folder / f"{taken.digest[:24]}{taken.ending}"
        with files.writable(path):
            path.write_bytes(taken.image)
        entry = {"image": f"{folder.name}/{path.name}", "question": taken.question, "answer": taken.answer}
        lines.append(json.dumps(entry))  # in ASCII: some other characters end a line
    text = "\n".join(lines) + "\n"
    record = {
        "schema": SCHEMA,
        "version": 1,
        "sha256": files.digest(text.encode()),  # of the images, too: their names are their digests'
        "rows": job.rows,
        "seed": job.seed,
        "source": {"data": job.source, "commit": commit},
        "alike_from": ALIKE,
        "checked": checked,
        "subsets": {subset.name: stream.counts() for subset, stream in streams.items()},
        "dropped": [drop for stream in streams.values() for drop in stream.dropped],
        "nearest_kept": {"benchmark": nearest.owner, "likeness": round(nearest.value, 4)},
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    files.write_json(record_path(job.output), record)
    files.write_text(job.output, text)
    return record


def _benchmarks(job: TrainingQuestions) -> tuple[KnownPictures, dict[str, dict[str, Any]]]:
    """Read every picture of the benchmarks' splits; and how many there were, by benchmark."""
    known, checked = KnownPictures(), {}
    for benchmark in select(job.benchmarks):
        try:
            (loaded,) = load_tasks((benchmark,), job.tasks, job.data, None, primary_only=True)
        except DyrateError as error:
            raise DyrateError(
                f"{error}\nNo image of {benchmark.title} may be among the training questions, which its data "
                "tells. Make it readable, or give a file of your own as the study's `training`"
            ) from error
        counted: Counter[str] = Counter()
        for row, data in tqdm(pictures_of(loaded), desc=benchmark.name, mininterval=20):
            counted[known.add(data, benchmark.name, f"{loaded.name}, row {row}")] += 1
        checked[benchmark.name] = {
            "task": loaded.name,
            "data": loaded.data_hash,
            "rows": len(loaded.rows),
            "images": len(counted),
        }
    return known, checked


@dataclass(frozen=True)
class _Taken:
    image: bytes
    question: str
    answer: str
    digest: str
    ending: str
    likeness: Likeness


@dataclass
class _Stream:
    """The rows of a subset, of which some are taken."""

    job: TrainingQuestions
    subset: Subset
    rows: Iterator[Any]
    taken: int = 0
    read: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def next(self, known: KnownPictures, used: set[str]) -> _Taken:
        """Return the next row whose picture is in no benchmark and not used yet; `DyrateError` if none is."""
        with reading(self.job.source, self.subset):
            for row in self.rows:
                self.read += 1
                found = self._fit(row, known, used)
                if found is not None:
                    self.taken += 1
                    used.add(found.digest)
                    return found
        raise DyrateError(
            f"--source {self.job.source}: its subset {self.subset.name} has {self.taken} rows that can be "
            f"used, too few for --rows {self.job.rows}"
        )

    def _fit(self, row: Any, known: KnownPictures, used: set[str]) -> _Taken | None:
        number = self.read - 1
        where = f"{self.subset.name}, row {number} in the order of seed {self.job.seed}"
        turn = self.subset.turn(row, self.job.seed, number)
        if turn is None:
            self.unfit["without a turn"] += 1
            return None
        image, question, answer = turn
        try:
            decoded(image, where)
            likeness = known.nearest(image, where)
        except DyrateError:
            self.unfit["unreadable"] += 1
            return None
        digest = files.digest(image)
        if likeness.one:
            self.dropped.append(
                {
                    "subset": self.subset.name,
                    "row": number,
                    "benchmark": likeness.owner,
                    "likeness": round(likeness.value, 4),
                    "same_bytes": likeness.same_bytes,
                }
            )
            return None
        if digest in used:
            self.unfit["an image again"] += 1
            return None
        ending = (Image.open(io.BytesIO(image)).format or "image").lower()
        return _Taken(image, question, answer, digest, f".{ending}", likeness)

    def counts(self) -> dict[str, Any]:
        """What became of the rows that were read."""
        same = sum(drop["same_bytes"] for drop in self.dropped)
        return {
            "read": self.read,
            "taken": self.taken,
            "unfit": dict(sorted(self.unfit.items())),
            "dropped": {"same bytes": same, "same picture": len(self.dropped) - same},
        }
