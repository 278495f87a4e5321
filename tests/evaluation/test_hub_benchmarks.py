"""Benchmarks that only the hub has, on rows in the columns of their data sets: asked, scored, and by what."""

import json
from pathlib import Path
from typing import Any

import pytest

from dyrate.errors import DyrateError
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.answers import read
from dyrate.evaluation.benchmarks import BENCHMARKS, select
from dyrate.evaluation.evaluate import evaluate_loaded, load
from dyrate.evaluation.harness import score_given
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.scoring import scores
from tests.evaluation.stand_ins import HUB_COLUMNS, SIZE, VISUAL, make_checkpoint, save_task

NAMES = tuple(HUB_COLUMNS)


@pytest.fixture(scope="module")
def tasks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[LoadedTask]:
    folder = tmp_path_factory.mktemp("tasks")
    for name in NAMES:
        save_task(folder, name, new_tokens=6)
    return load_tasks(select(NAMES), str(folder), data, None)


def given(tasks: list[LoadedTask], **answers: list[str]) -> dict[str, Any]:
    """The scores of answers to the first rows, "nothing" to the others, by benchmark."""
    asked = [loaded for loaded in tasks if loaded.benchmark.name in answers]
    padded = {one.name: answers[one.benchmark.name] for one in asked}
    padded = {one.name: [*padded[one.name], *["-"] * (12 - len(padded[one.name]))] for one in asked}
    return {
        one.benchmark.name: (found := score_given([one], padded)[one.benchmark.name])
        and scores(one.benchmark, found.samples, found.aggregates, 0, 200)[one.benchmark.primary.name]
        for one in asked
    }


def test_all_that_the_testbed_lacks_is_here() -> None:
    assert set(NAMES) == {name for name, benchmark in BENCHMARKS.items() if not benchmark.testbed}


@pytest.mark.parametrize(
    ("name", "answers", "value"),
    [
        ("chartqa", ["0", "1.04", "2.2"], 100 * 2 / 12),  # a 5% error counts as right, but for zero
        ("docvqa", ["word 0", "the word 1", "word 9"], 100 * (2 + 5 / 6) / 12),
        ("infovqa", ["nothing of the kind"], 0.0),
        ("realworldqa", ["A.", "7", "The answer is A"], 100 * 3 / 12),
        # Twelve rows, eight of one field and four of the other: the mean of the fields, not of the rows.
        ("mmstar", ["A", "B", "C", "D"], 100 * (4 / 8 + 0) / 2),
        ("mmstar", ["-"] * 4 + ["A", "B", "C", "D"], 100 * (0 + 4 / 4) / 2),
    ],
)
def test_a_score_is_lmms_evals(tasks: list[LoadedTask], name: str, answers: list[str], value: float) -> None:
    found = given(tasks, **{name: answers})[name]
    assert found["value"] == pytest.approx(value)
    if value != 50:  # each field is all right or all wrong, of which no resample says anything
        assert found["low"] <= value <= found["high"]


def test_a_letter_that_lmms_eval_draws_depends_on_the_row_and_its_answer_alone(
    tasks: list[LoadedTask],
) -> None:
    right = ["(B)", "(B)", "(B)", "three"] * 3
    assert given(tasks, mmmu=right)["mmmu"]["value"] == 100
    wrong = ["(A)", "(C)", "(A)", "nine"] * 3
    assert given(tasks, mmmu=wrong)["mmmu"]["value"] == 0
    loaded = next(one for one in tasks if one.benchmark.name == "visualpuzzles")
    answers = ["nothing"] * 12
    first = score_given([loaded], {loaded.name: answers})["visualpuzzles"].samples
    later = score_given([loaded], {loaded.name: [*["Answer: A"] * 5, *answers[5:]]})["visualpuzzles"].samples
    assert [one.scores for one in first[5:]] == [one.scores for one in later[5:]]
    assert 0 < sum(one.scores["exact_match"] for one in first) < 12


def test_thoughts_are_not_scored(tasks: list[LoadedTask]) -> None:
    answers = ["<think>Answer: D</think>Answer: A", "it is Answer: (D)</think> Answer: (B)"]
    loaded = next(one for one in tasks if one.benchmark.name == "visualpuzzles")
    found = score_given([loaded], {loaded.name: [*answers, *["Answer: D"] * 10]})["visualpuzzles"].samples
    assert [one.answer for one in found[:2]] == ["Answer: A", "Answer: (B)"]
    assert [one.scores["exact_match"] for one in found[:4]] == [1.0, 1.0, 0.0, 1.0]


def test_a_model_of_another_family_is_asked_all_of_them(tasks: list[LoadedTask], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiled", pinpoints=[[SIZE, 2 * SIZE], [2 * SIZE, SIZE]])
    job = Evaluation.of(
        {
            "model": str(folder),
            "method": {"name": "fastv", "layer": 1, "rate": 0.5},
            "benchmarks": NAMES,
            "batch_size": 5,
            "device": "cpu",
            "dtype": "float32",
            "study": "test",
            "output": tmp_path / "out",
        }
    )
    model = load(job)
    assert isinstance(model, DyrateModel)
    evaluate_loaded(job, model, tasks)
    found = json.loads((tmp_path / "out/greedy.json").read_text())["benchmarks"]
    assert {name: one["task"] for name, one in found.items()} == {
        name: BENCHMARKS[name].hub_task for name in NAMES
    }
    whole = 2 * VISUAL + 2  # an image and its one tile, with a newline after both rows
    for name, one in found.items():
        assert one["samples"] == 12
        assert one["visual_tokens"]["total"] == whole * (1.5 if name == "mmmu" else 1)
    answers = read(tmp_path / "out/greedy.answers.parquet")
    assert {one.category for one in answers["mmmu"]} == {"Easy", "Hard"}
    assert {one.stratum for one in answers["mmstar"]} == {"geometry", "single-instance reasoning"}
    assert "<image 2>" in answers["mmmu"][1].prompt


def test_a_row_without_its_image_stops_before_anything_is_asked(data: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    table = parquet.read_table(data / "mmmu.parquet")
    rows = table.to_pylist()
    rows[2]["image_2"] = None  # it stands in an option
    parquet.write_table(type(table).from_pylist(rows, table.schema), tmp_path / "mmmu.parquet")
    save_task(tmp_path, "mmmu")
    with pytest.raises(DyrateError, match=r"task mmmu_val .*, row 2, column 'image_2': None holds no bytes"):
        load_tasks(select(["mmmu"]), str(tmp_path), None, None)
