"""Rows are checked once, at load: what is missing, unfit or half there is named by task, row and column."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS, select
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.evaluation.rows import _COLUMNS
from tests.evaluation.stand_ins import save_task

Rows = list[dict[str, Any]]
Damage = Callable[[Rows], Any]


def _load(data: Path, folder: Path, benchmark: str, damage: Damage) -> None:
    """Load a benchmark whose rows were damaged, in the columns that are left."""
    whole = parquet.read_table(data / f"{benchmark}.parquet")
    rows = whole.to_pylist()
    damage(rows)
    left = [field for field in whole.schema if not rows or field.name in rows[0]]
    schema = pa.schema(left, whole.schema.metadata)
    parquet.write_table(pa.Table.from_pylist(rows, schema), folder / f"{benchmark}.parquet")
    local = BENCHMARKS[benchmark].testbed
    if not local:
        save_task(folder, benchmark)
    load_tasks(select([benchmark]), "testbed" if local else str(folder), folder, None)


def _task(benchmark: str) -> str:
    known = BENCHMARKS[benchmark]
    return known.testbed_task if known.testbed else known.hub_task


def _set(column: str, value: Any, row: int = 1) -> Damage:
    return lambda rows: rows[row].update({column: value})


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_column_is_needed(benchmark: str, data: Path, tmp_path: Path) -> None:
    for column in [*_COLUMNS[benchmark], *BENCHMARKS[benchmark].images]:
        with pytest.raises(DyrateError, match=rf"task {_task(benchmark)} .*column '{column}'"):
            _load(data, tmp_path, benchmark, lambda rows, name=column: [row.pop(name) for row in rows])


@pytest.mark.parametrize(
    ("benchmark", "damage", "message"),
    [
        (
            "gqa",
            _set("question", None),
            "row 1, column 'question': None; it should be a text that is not empty",
        ),
        ("gqa", _set("question", " \n"), "column 'question': ' ..'; it should be a text"),
        ("gqa", _set("answer", None), "row 1, column 'answer': None"),
        ("vizwiz", _set("answers", None), "column 'answers': None; it should be a list of 4 or more texts"),
        ("vizwiz", _set("answers", ["a"] * 3), "a list of 4 or more texts"),
        ("textvqa", _set("answers", ["a", "a", "a", None]), "column 'answers'"),
        ("textvqa", _set("answers", [""] * 10), "not all of them empty"),
        ("vqav2", _set("answers", [{"answer": "a", "answer_id": 1}] * 10), "no two the same"),
        ("sqa", _set("answer", 2), "column 'answer': 2; it should be the number of one of the 2 choices"),
        ("sqa", _set("answer", -1), "column 'answer': -1"),
        ("sqa", _set("hint", None), "column 'hint': None; it should be a text, which may be empty"),
        ("sqa", _set("choices", ["one"]), "a list of two or more texts"),
        ("pope", _set("answer", "maybe"), "column 'answer': 'maybe'; it should be yes or no"),
        ("mme", _set("category", "colour"), "column 'category': 'colour'; it should be one of OCR, artwork"),
        ("mme", lambda rows: rows.pop(3), "'color/1' of category color is there 1 times"),
        ("mme", lambda rows: rows.append(rows[0]), "row 12, .*'color/0' of category color is there 3 times"),
        ("mmb", _set("answer", "E"), "column 'answer': 'E'; it should be one of A, B, C, D"),
        ("mmb", _set("D", None, -1), r"row 11, column 'answer': 'D'; .*an option that is there \(ABC\)"),
        ("mmb", lambda rows: rows.pop(0), r"has the options ABCD and is there in the rotations \[1, 2, 3\]"),
        (
            "mmb",
            lambda rows: rows.pop(),
            r"question 2 .*rotations \[0, 1, 2\]; all of 0 to 3 should be there",
        ),
        ("mmb", _set("index", 0), "row 1, column 'index': 0; it should be another than row 0's"),
        ("nocaps", _set("image_id", 0), "row 1, column 'image_id': 0; .*another image than row 0's"),
        ("nocaps", _set("annotations_captions", []), "a list of texts, not all of them empty"),
        ("flickr30k", _set("img_id", "00"), "column 'img_id': '00'; .*another image than row 0's"),
        ("flickr30k", _set("caption", ["a dog", None]), "column 'caption'"),
        ("coco2017", _set("question_id", "val_0.png"), "another image than row 0's"),
        ("coco2017", _set("question_id", "a dog"), "a file name that ends in a number"),
        ("chartqa", _set("answer", ""), "row 1, column 'answer': ''; it should be a text that is not empty"),
        ("docvqa", _set("answers", []), r"row 1, column 'answers': \[\]; it should be a list of texts"),
        ("infovqa", _set("answers", [""]), "column 'answers': .*not all of them empty"),
        ("realworldqa", _set("image", None), "row 1, column 'image': None holds no bytes of an image"),
        ("mmstar", _set("answer", "E"), "row 1, column 'answer': 'E'; it should be one of A, B, C, D"),
        ("mmstar", _set("l2_category", None), "row 1, column 'l2_category': None"),
        ("mmmu", _set("answer", "D", 0), "row 0, column 'answer': 'D'; it should be one of A, B, C"),
        ("mmmu", _set("options", "['one", 0), "row 0, column 'options': .*two or more texts, written as a"),
        ("mmmu", _set("question_type", "essay"), "'essay'; it should be multiple-choice or open"),
        ("mmmu", _set("id", "Art"), "column 'id': 'Art'; it should be a split, a subject and a number"),
        ("mmmu", _set("image_2", None), "row 1, column 'image_2': None holds no bytes of an image"),
        (
            "mmmu",
            _set("question", "<image 9>"),
            "column 'question': '<image 9>.*images from <image 1>",
        ),
        (
            "visualpuzzles",
            _set("options", ["a"] * 3),
            "column 'options': .*a list of four texts, or null",
        ),
        ("visualpuzzles", _set("answer", "E"), "row 1, column 'answer': 'E'; it should be one of A, B, C, D"),
        ("gqa", _set("image", None), "row 1, column 'image': None holds no bytes of an image"),
        (
            "gqa",
            _set("image", {"bytes": None, "path": "/etc/hostname"}),
            "/etc/hostname.*paths and addresses",
        ),
        ("gqa", _set("image", {"bytes": b"", "path": "http://a/b.png"}), "holds no bytes"),
        ("gqa", list.clear, "has no rows|BatchSize must be greater than 0"),
    ],
)
def test_an_unfit_row_is_named(
    benchmark: str, damage: Damage, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DyrateError, match=rf"task {_task(benchmark)} .*{message}") as error:
        _load(data, tmp_path, benchmark, damage)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("benchmark", "change"),
    [
        ("vizwiz", _set("answers", ["one"] * 9 + [""])),
        ("pope", _set("answer", "Yes")),
        ("mme", _set("answer", "Yes.", 0)),
        ("mmb", _set("hint", None)),
        ("mmmu", _set("options", "[]", 3)),
        ("mmmu", _set("question", "Which?", 0)),
        ("visualpuzzles", _set("answer", "b")),
        ("mmb", lambda rows: [rows.pop() for _ in range(3)] and [row.update(D="nan") for row in rows]),
    ],
)
def test_what_lmms_eval_reads_is_read(benchmark: str, change: Damage, data: Path, tmp_path: Path) -> None:
    _load(data, tmp_path, benchmark, change)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gqa.parquet").write_bytes(b"no parquet")
    with pytest.raises(DyrateError, match=r"task gqa_testbed \(.*gqa.parquet\): the data cannot be read: "):
        load_tasks(select(["gqa"]), "testbed", tmp_path, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: gqa\n", "gqa.yaml: task gqa has no dataset_path; it needs dataset_path, test_split"),
        ("task: gqa\ndataset_path: [\n", "gqa.yaml|not a task file|no task file defines"),
        (
            "task: gqa\ndoc_to_text: !function nowhere.at_all\n",
            "not a task file of lmms-eval: .*nowhere.*; because of ModuleNotFoundError: .*nowhere",
        ),
        (
            "task: gqa\ndoc_to_text: !function lmms_eval.tasks.gqa.utils.nothing\n",
            "not a task file .*nothing",
        ),
    ],
)
def test_a_task_file_that_is_none_is_named(text: str, message: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "gqa.yaml").write_text(text)
    with pytest.raises(DyrateError, match=message):
        load_tasks(select(["gqa"]), str(tmp_path), data, None)
