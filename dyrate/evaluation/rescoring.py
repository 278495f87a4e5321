"""Answers that another harness collected: matched to a task's samples, and scored here as a model's own are.

A reader of that harness's files says, in terms of its own, which sample each `Question` is and which each
answer is to; the rest is the same for all. `examples/external/rescore.py` has readers for two harnesses. No
score of theirs is taken.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dyrate.errors import DyrateError
from dyrate.evaluation import answers, provenance, results
from dyrate.evaluation.decoding import decoding_spec
from dyrate.evaluation.harness import references, score_given, scored
from dyrate.evaluation.harness_tasks import LoadedTask
from dyrate.evaluation.intervals import LEVEL, RESAMPLES
from dyrate.fingerprint import fingerprint

_NAMED = 3  # samples that an error names
_LONGEST = 160


@dataclass(frozen=True)
class Question:
    """A sample as the task has it; a caption's has no `text`, and no target but its `references`."""

    row: int  # of the benchmark's data
    text: str
    target: str
    references: tuple[str, ...]
    document: Mapping[str, Any]  # the data's columns but the image


@dataclass(frozen=True)
class Given:
    """An answer that was given elsewhere."""

    sample: Hashable
    """to which; equal to what the reader says of that `Question`"""
    answer: str
    prompt: str
    """what was asked, as far as the file says it"""
    place: str
    """where it stands in the file"""


@dataclass(frozen=True)
class Reading:
    """What a reader makes of one file."""

    known: Sequence[Hashable]
    """which sample each of the task's questions is, in their order"""
    given: Sequence[Given]
    source: Mapping[str, str | None]
    """`harness`, `commit`, `date` and whatever else the file says of itself"""


def questions(loaded: LoadedTask) -> list[Question]:
    """The samples of a task, in the order of its documents."""
    found = []
    for row, document in zip(loaded.rows, loaded.task.eval_docs_no_media, strict=True):
        caption = loaded.benchmark.kind == "caption"
        text, target = "" if caption else document["question"], str(loaded.task.doc_to_target(document))
        seen = loaded.task.process_results(document, [""]) if caption else {}
        texts = references(loaded, {"doc": document, "target": target, **seen})
        found.append(Question(row, text, "" if caption else target, tuple(texts), document))
    return found


def assign(where: str, loaded: LoadedTask, reading: Reading, rows: Sequence[int]) -> dict[int, Given]:
    """By row of the data, the answer to it.

    `loaded` is the whole task, and `rows` those that are to be scored. Samples that the reader cannot tell
    apart get their answers in the file's order; scores cannot tell them apart either, unless samples are
    scored together. Raises `DyrateError`, beginning with `where`, unless each of `rows` has one answer, none
    is to anything else, and samples that are scored together can be told apart.
    """
    left: dict[Hashable, list[int]] = {}
    for row, sample in zip(loaded.rows, reading.known, strict=True):
        left.setdefault(sample, []).append(row)
    for sample, alike in left.items():
        if loaded.benchmark.unit and len(alike) > 1:
            raise DyrateError(f"{where}: cannot tell apart the rows {_few(alike)} of {loaded.name}: {sample}")
    matched: dict[int, Given] = {}
    unknown, repeated = [], []
    for one in reading.given:
        if one.sample not in left:
            unknown.append(one)
        elif not left[one.sample]:
            repeated.append(one)
        else:
            matched[left[one.sample].pop(0)] = one
    missing = [row for row in rows if row not in matched]
    faults = [
        f"{len(found)} of its {len(reading.given)} answers {what}: {_few([_shown(one) for one in found])}"
        for what, found in (
            ("are to none of its samples (is it another split or edition of the data?)", unknown),
            ("are to samples that have one already", repeated),
        )
        if found
    ]
    if missing:
        faults.append(
            f"{len(missing)} of {len(rows)} samples have no answer: rows {_few(missing)} of the data"
        )
    if faults:
        raise DyrateError(f"{where}: should answer each sample of {loaded.name} once; {'; '.join(faults)}")
    return {row: matched[row] for row in rows}


def _few(found: Sequence[object]) -> str:
    return ", ".join(map(str, found[:_NAMED])) + (", ..." if len(found) > _NAMED else "")


def _shown(one: Given) -> str:
    sample = repr(one.sample)
    return f"{one.place} {sample if len(sample) <= _LONGEST else f'{sample[:_LONGEST]}...'}"


@dataclass(frozen=True)
class Row:
    """What a result is called: the row that it makes in the tables."""

    study: str
    model: str
    method: str
    label: str
    decoding: str
    command: str
    device: str
    dtype: str


def write(
    files: results.ResultFiles,
    row: Row,
    tasks: Sequence[LoadedTask],
    given: Mapping[str, Mapping[int, Given]],
    sources: Mapping[str, Mapping[str, str | None]],
    seed: int = 0,
) -> results.Result:
    """Score answers, by benchmark and row of its data, and write them and their result; returns the result.

    There are no paired differences in it, and no tokens: another harness does not count them.
    """
    texts = {t.name: [given[t.benchmark.name][number].answer for number in t.rows] for t in tasks}
    answered = score_given(tasks, texts)
    for name, found in answered.items():
        for sample in found.samples:
            sample.prompt = given[name][sample.doc_id].prompt
    digest = answers.write(files.answers, {name: found.samples for name, found in answered.items()})
    result: results.Result = {
        "schema": results.SCHEMA,
        "version": results.VERSION,
        "study": row.study,
        "model": row.model,
        "method": {"name": row.method},
        "label": row.label,
        "decoding": decoding_spec(row.decoding),
        "benchmarks": {t.benchmark.name: scored(t, answered[t.benchmark.name], seed) for t in tasks},
        "meta": {
            "command": row.command,
            "seed": seed,
            "device": row.device,
            "dtype": row.dtype,
            "engine": "elsewhere",
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "hashes": {
                "data": {t.benchmark.name: t.data_hash for t in tasks},
                "code": fingerprint(["dyrate.evaluation.rescoring"]),
                "answers": digest,
            },
            "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "seed": seed},
            "sources": {name: dict(source) for name, source in sources.items()},
        },
    }
    results.write(files.result, result)
    return result
