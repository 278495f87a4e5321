"""The rows of a benchmark's data: each must hold what is asked, and what its answer is held against.

lmms-eval would put a missing question as "None", and score against whatever stands in the answer's place.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import MME_COGNITION, MME_PERCEPTION, Benchmark

_LETTERS = "ABCD"
_ANNOTATORS = 4  # VQA accuracy compares each annotator with three others: with fewer none is ever reached


@dataclass(frozen=True)
class _Value:
    """What a column holds."""

    what: str
    fits: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are(fits: Callable[[Any], bool], value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) >= least and all(map(fits, value))


def _are_annotations(value: Any) -> bool:
    """Annotations that are equal in everything would not be compared with each other."""
    if not _are(lambda one: isinstance(one, dict) and isinstance(one.get("answer"), str), value, _ANNOTATORS):
        return False
    return all(one != other for i, one in enumerate(value) for other in value[:i])


def _is_yes_no(value: Any) -> bool:
    return isinstance(value, str) and value.lower().strip() in ("yes", "no")


def _is_number(value: Any) -> bool:
    return value.isdecimal() if isinstance(value, str) else _is_whole(value)


def _ends_in_digits(value: Any) -> bool:
    return isinstance(value, str) and value.split("_")[-1].split(".")[0].isdecimal()


def listed(value: Any) -> list[str]:
    """The options of an exam question, a list that is written as a text; none where it is not that."""
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else []


CHOSEN = "multiple-choice"
_ANY = _Value("anything", lambda value: True)
_TEXT = _Value("a text that is not empty", _is_text)
_HINT = _Value("a text, which may be empty", lambda value: isinstance(value, str))
_OPTION = _Value("a text, or null for an option that is not there", lambda v: v is None or isinstance(v, str))
_YES_NO = _Value("yes or no", _is_yes_no)
_YES_NO_STOP = _Value(
    "yes or no", lambda value: isinstance(value, str) and _is_yes_no(value.replace(".", ""))
)
_WHOLE = _Value("a whole number from 0 on", lambda value: _is_whole(value) and value >= 0)
_CAPTIONS = _Value(
    "a list of texts, not all of them empty",
    lambda value: _are(lambda one: isinstance(one, str), value, 1) and any(map(_is_text, value)),
)
_CHOICES = _Value("a list of two or more texts", lambda value: _are(_is_text, value, 2))
_ANSWERS = _Value(
    f"a list of {_ANNOTATORS} or more texts, not all of them empty",
    lambda value: _are(lambda one: isinstance(one, str), value, _ANNOTATORS) and any(map(_is_text, value)),
)
_ANNOTATIONS = _Value(
    f"a list of {_ANNOTATORS} or more {{answer: text, answer_id: number}}, no two the same", _are_annotations
)
_LETTER = _Value(
    f"one of {', '.join(_LETTERS)}", lambda value: isinstance(value, str) and value in [*_LETTERS]
)
_ANY_CASE = _Value(f"one of {', '.join(_LETTERS)}", lambda v: isinstance(v, str) and v.upper() in [*_LETTERS])
_FOUR = _Value(
    "a list of four texts, or null where they stand in the image",
    lambda value: value is None or (_are(lambda one: isinstance(one, str), value, 4) and len(value) == 4),
)
_ID = _Value(
    "a split, a subject and a number, as validation_Art_1",
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"[^_]+_.+_\d+", value)),
)
_TYPE = _Value(f"{CHOSEN} or open", lambda value: value in (CHOSEN, "open"))
_CATEGORY = _Value(
    f"one of {', '.join(sorted(MME_PERCEPTION | MME_COGNITION))}",
    lambda value: value in MME_PERCEPTION | MME_COGNITION,
)

_COLUMNS: Mapping[str, Mapping[str, _Value]] = {
    "gqa": {"question": _TEXT, "answer": _TEXT},
    "vizwiz": {"question_id": _ANY, "question": _TEXT, "answers": _ANSWERS},
    "sqa": {"question": _TEXT, "choices": _CHOICES, "answer": _WHOLE, "hint": _HINT},
    "vqav2": {"question_id": _ANY, "question": _TEXT, "answers": _ANNOTATIONS},
    "textvqa": {"question_id": _ANY, "question": _TEXT, "answers": _ANSWERS},
    "pope": {"question_id": _ANY, "question": _TEXT, "answer": _YES_NO},
    "mmb": {
        "index": _WHOLE,
        "question": _TEXT,
        "hint": _OPTION,
        "answer": _LETTER,
        **dict.fromkeys(_LETTERS, _OPTION),
        "category": _TEXT,
        "L2-category": _TEXT,
        "source": _ANY,
        "split": _ANY,
    },
    "mme": {"question_id": _TEXT, "question": _TEXT, "answer": _YES_NO_STOP, "category": _CATEGORY},
    "nocaps": {"image_id": _WHOLE, "annotations_captions": _CAPTIONS},
    "flickr30k": {
        "img_id": _Value("a whole number, or one as text", _is_number),
        "caption": _CAPTIONS,
    },
    "coco2017": {
        "question_id": _Value("a file name that ends in a number, as val_0001.jpg", _ends_in_digits),
        "id": _ANY,
        "answer": _CAPTIONS,
    },
    "chartqa": {"question": _TEXT, "answer": _TEXT, "type": _TEXT},
    "docvqa": {"question": _TEXT, "answers": _CAPTIONS},
    "infovqa": {"question": _TEXT, "answers": _CAPTIONS},
    "realworldqa": {"question": _TEXT, "answer": _TEXT},
    "mmstar": {
        "index": _WHOLE,
        "question": _TEXT,
        "answer": _LETTER,
        "category": _TEXT,
        "l2_category": _TEXT,
    },
    "mmmu": {"id": _ID, "question": _TEXT, "options": _HINT, "answer": _TEXT, "question_type": _TYPE},
    "visualpuzzles": {"question": _TEXT, "options": _FOUR, "answer": _ANY_CASE},
}
"""Benchmark to the columns that lmms-eval's task reads besides the image."""

_Columns = Mapping[str, Sequence[Any]]


def check_rows(benchmark: Benchmark, dataset: Any, where: str) -> None:
    """Refuse data with missing columns, unfit values, incomplete groups, or images of the same number.

    `where` the data come from begins the `DyrateError`, which names row and column.
    """
    columns = _COLUMNS[benchmark.name]
    if missing := [name for name in columns if name not in dataset.column_names]:
        raise DyrateError(
            f"{where}: has no column {missing[0]!r}; it has {', '.join(map(repr, dataset.column_names))}"
        )
    if not len(dataset):
        raise DyrateError(f"{where}: has no rows")
    read = [name for name, kind in columns.items() if kind is not _ANY]
    try:
        rows = dataset.select_columns(read).with_format(None)[:]
    except UnicodeDecodeError as error:
        raise DyrateError(f"{where}: a text is not UTF-8 ({error})") from None
    for name in read:
        for index, value in enumerate(rows[name]):
            if not columns[name].fits(value):
                raise wrong(where, index, name, value, columns[name].what)
    if extra := _TOGETHER.get(benchmark.name):
        extra(where, rows)


def wrong(where: str, row: int, column: str, value: Any, expected: str) -> DyrateError:
    """What is wrong with a value."""
    return DyrateError(f"{where}, row {row}, column {column!r}: {value!r:.80}; it should be {expected}")


def _check_choices(where: str, columns: _Columns) -> None:
    for row, (answer, choices) in enumerate(zip(columns["answer"], columns["choices"], strict=True)):
        if answer >= len(choices):
            expected = f"the number of one of the {len(choices)} choices, from 0 on"
            raise wrong(where, row, "answer", answer, expected)


def _check_exam(where: str, columns: _Columns) -> None:
    for row, kind in enumerate(columns["question_type"]):
        options, answer = columns["options"][row], columns["answer"][row]
        if kind == CHOSEN:
            if len(texts := listed(options)) < 2:
                raise wrong(where, row, "options", options, "a list of two or more texts, written as a text")
            if answer not in (letters := [chr(ord("A") + n) for n in range(len(texts))]):
                raise wrong(where, row, "answer", answer, f"one of {', '.join(letters)}")


def _check_rotations(where: str, columns: _Columns) -> None:
    """MMBench asks a question once per option, the options turned round by one each time."""
    groups: dict[int, dict[int, int]] = {}
    for row, index in enumerate(columns["index"]):
        turn, question = divmod(index, 1_000_000)
        rows = groups.setdefault(question, {})
        if turn in rows:
            raise wrong(where, row, "index", index, f"another than row {rows[turn]}'s")
        rows[turn] = row
        options = _options(columns, row)
        if columns["answer"][row] not in options:
            raise wrong(where, row, "answer", columns["answer"][row], f"an option that is there ({options})")
    for question, rows in groups.items():
        first = next(iter(rows.values()))
        options = _options(columns, first)
        if sorted(rows) != [*range(len(options))]:
            raise DyrateError(
                f"{where}, row {first}, column 'index': question {question} has the options {options} and is "
                f"there in the rotations {sorted(rows)}; all of 0 to {len(options) - 1} should be there "
                "(index = question + rotation * 1000000)"
            )


def _options(columns: _Columns, row: int) -> str:
    return "".join(letter for letter in _LETTERS if columns[letter][row] not in (None, "", "nan"))


def _check_pairs(where: str, columns: _Columns) -> None:
    pairs: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(columns["category"], columns["question_id"], strict=True)):
        pairs.setdefault(key, []).append(row)
    for (category, question), rows in pairs.items():
        if len(rows) != 2:
            raise DyrateError(
                f"{where}, row {rows[-1]}, column 'question_id': {question!r} of category {category} is "
                f"there {len(rows)} times; MME scores pairs, so it should be there twice"
            )


def _unique(column: str, number: Callable[[Any], int] = int) -> Callable[[str, _Columns], None]:
    """Caption metrics go by the image's number, and would merge the captions of two rows."""

    def check(where: str, columns: _Columns) -> None:
        seen: dict[int, int] = {}
        for row, value in enumerate(columns[column]):
            if (first := seen.setdefault(number(value), row)) != row:
                raise wrong(where, row, column, value, f"the number of another image than row {first}'s")

    return check


_TOGETHER: Mapping[str, Callable[[str, _Columns], None]] = {
    "sqa": _check_choices,
    "mmb": _check_rotations,
    "mme": _check_pairs,
    "mmmu": _check_exam,
    "nocaps": _unique("image_id"),
    "flickr30k": _unique("img_id"),
    "coco2017": _unique("question_id", lambda name: int(name.split("_")[-1].split(".")[0])),
}
"""What must fit together in a benchmark's rows."""
