"""Training questions, made of a stand-in of The Cauldron's layout, have no picture of the benchmarks."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.files import digest
from dyrate.predictor_training.examples import FileExamples
from dyrate.testbed.benchmarks.build import build
from dyrate.testbed.world.prompts import CAPTION, SHORT
from dyrate.training_questions.job import TrainingQuestions
from dyrate.training_questions.make import make
from dyrate.training_questions.record import is_made, record_path
from tests.training_questions.cauldron import Row, encoded, row, save, scenes

BENCHMARKS = ("gqa", "nocaps")
FRESH = [encoded(image, quality=90) for image in scenes(12)]


@pytest.fixture(scope="module", autouse=True)
def _without_waiting() -> Iterator[None]:
    """`datasets` waits five seconds for its threads at the end of each stream."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
        yield


def pictures(folder: Path, benchmark: str) -> list[bytes]:
    table = parquet.read_table(folder / "data" / f"{benchmark}.parquet", columns=["image"])
    return [entry["image"]["bytes"] for entry in table.to_pylist()]


def copies(image: bytes) -> list[bytes]:
    """The same bytes; half the size; compressed again."""

    whole = Image.open(io.BytesIO(image)).convert("RGB")
    half = whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS)
    return [image, encoded(half, quality=90), encoded(whole, quality=50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Benchmarks, and a source in which copies of their pictures stand between six fresh ones a subset."""
    home = tmp_path_factory.mktemp("questions")
    build(BENCHMARKS, 5, 0, home / "data")
    planted = [copy for name in BENCHMARKS for copy in copies(pictures(home, name)[1])]
    unfit: list[Row] = [
        ([b"no picture"], [("What?\nBriefly.", "A cube.")]),
        ([FRESH[0], FRESH[1]], [("Which two?\nBriefly.", "These.")]),
        ([FRESH[2]], [("\nBriefly.", "A cube."), ("What?\nBriefly.", ".")]),
    ]
    questions = [*map(row, FRESH[:6], range(6)), row(FRESH[5], 6), *unfit, *map(row, planted)]
    asked = "Describe it, please."
    captions: list[Row] = [([one], [(asked, f" A caption.\u2028 {i}\n")]) for i, one in enumerate(FRESH[6:])]
    captions += map(row, planted[:2])
    save(home / "source", {"vqav2": questions, "textcaps": captions})
    return home


def job(folder: Path, output: str = "out/train.jsonl", **changed: Any) -> TrainingQuestions:
    values = {
        "source": str(folder / "source"),
        "rows": 12,
        "benchmarks": BENCHMARKS,
        "tasks": "testbed",
        "data": folder / "data",
        "output": folder / output,
    }
    return TrainingQuestions.model_validate({**values, **changed})


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, Any]:
    return make(job(folder))


def test_no_copy_of_a_benchmarks_picture_comes_in(folder: Path, made: dict[str, Any]) -> None:
    lines = (folder / "out/train.jsonl").read_text("utf-8").splitlines()
    used = [(folder / "out" / json.loads(line)["image"]).read_bytes() for line in lines]

    # All that is fresh comes, once, and nothing else.
    assert sorted(map(digest, used)) == sorted(map(digest, FRESH))
    dropped = {(one["subset"], one["benchmark"], one["same_bytes"]) for one in made["dropped"]}
    assert dropped >= {("vqav2", name, same) for name in BENCHMARKS for same in (True, False)}
    assert all(one["likeness"] >= made["alike_from"] for one in made["dropped"])
    assert made["nearest_kept"]["likeness"] < made["alike_from"] - 0.2


def test_questions_and_captions_come_in_turn_as_benchmarks_ask_them(
    folder: Path, made: dict[str, Any]
) -> None:
    entries = [json.loads(line) for line in (folder / "out/train.jsonl").read_text("utf-8").splitlines()]

    for question, caption in zip(entries[::2], entries[1::2], strict=True):
        assert question["question"].endswith(f"?{SHORT}")
        assert "rief" not in question["question"], "the data set's own words for it are gone"
        assert question["answer"] in ("A cube", "2")
        assert caption["question"] == CAPTION
        assert caption["answer"].startswith("A caption.")


def test_predictors_train_on_it(folder: Path, made: dict[str, Any]) -> None:
    examples = FileExamples(folder / "out/train.jsonl", seed=0, validation=2)

    assert (len(examples.entries), examples.description["sha256"]) == (12, made["sha256"])
    image, question, answer = examples.training(0)
    assert image.mode == "RGB"
    assert question
    assert answer


def test_the_record_says_what_was_checked(folder: Path, made: dict[str, Any]) -> None:
    output = folder / "out/train.jsonl"

    assert json.loads(record_path(output).read_text("utf-8")) == made
    assert {name: (one["rows"], one["task"]) for name, one in made["checked"].items()} == {
        "gqa": (5, "gqa_testbed"),
        "nocaps": (5, "nocaps_testbed"),
    }
    for name, one in made["checked"].items():
        assert one["images"] == len(set(pictures(folder, name)))
    counts = made["subsets"]["vqav2"]
    assert (counts["taken"], made["subsets"]["textcaps"]["taken"]) == (6, 6)
    assert counts["read"] == counts["taken"] + sum(counts["unfit"].values()) + sum(counts["dropped"].values())
    assert is_made(output)


def test_the_same_seed_gives_the_same_bytes(folder: Path, made: dict[str, Any]) -> None:
    again, other = make(job(folder, "again/train.jsonl")), make(job(folder, "other/train.jsonl", seed=1))

    first, second = (folder / name / "train.jsonl" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()
    assert again == made
    assert other["sha256"] != made["sha256"]


def test_a_file_that_was_changed_is_the_users(folder: Path, made: dict[str, Any], tmp_path: Path) -> None:
    for name in ("train.jsonl", "train.made.json"):
        (tmp_path / name).write_bytes((folder / "out" / name).read_bytes())
    mine = tmp_path / "train.jsonl"
    assert is_made(mine)

    mine.write_text(mine.read_text("utf-8") + "\n")
    assert not is_made(mine)
    record_path(mine).unlink()
    assert not is_made(mine)
    assert is_made(tmp_path / "not-there.jsonl")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"benchmarks": ("gqa", "pope")},
            r"pope.parquet: no such file .*\nNo image of POPE may be among the training questions",
        ),
        ({"rows": 14}, "its subset vqav2 has 6 rows that can be used, too few for --rows 14"),
        ({"source": "./nowhere"}, r"--source ./nowhere: its subset vqav2 cannot be read: "),
    ],
)
def test_what_cannot_be_read_or_checked_ends_it(folder: Path, change: Any, complaint: str) -> None:
    with pytest.raises(DyrateError, match=complaint):
        make(job(folder, "none/train.jsonl", **change))

    assert not (folder / "none/train.jsonl").exists()
    assert not record_path(folder / "none/train.jsonl").exists()


def test_other_columns_are_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "vqav2").mkdir()
    datasets.Dataset.from_dict({"image": ["x"], "texts": ["y"]}).to_parquet(
        tmp_path / "vqav2/train-0.parquet"
    )
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: vqav2\n  data_files:\n  - split: train\n    path: vqav2/train-*\n---\n"
    )

    with pytest.raises(DyrateError, match="its subset vqav2 has no column images; it has image, texts"):
        make(job(folder, "none/train.jsonl", source=str(tmp_path)))


def test_the_command_says_what_came_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"training-questions --source {folder}/source --rows 4 --benchmarks gqa --tasks testbed"

    assert main(f"{line} --data {folder}/data --output {folder}/cli/train.jsonl".split()) == 0

    printed = capsys.readouterr().out
    assert f"{folder}/cli/train.jsonl: 4 rows, without the 5 images of 1 benchmarks" in printed
    assert "vqav2: 2 of " in printed
