"""The acceptance table: attainable and constant scores from the same functions, bounds, comparisons."""

import argparse
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dyrate.errors import DyrateError
from dyrate.evaluation import acceptance
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness_tasks import load_tasks

LOW_HIGH = ("low", "high")
BENCHMARKS = ("gqa", "sqa", "pope", "mmb", "mme")


@pytest.fixture
def world(data: Path, tmp_path: Path) -> Path:
    """The tiny benchmarks with an oracle beside each."""
    oracle = {
        "gqa": [f"word {i % 3}" for i in range(12)],
        "sqa": ["AB"[i % 2] for i in range(12)],
        "pope": [("yes", "no")[i % 2] for i in range(12)],
        "mmb": ["ABCD"[i // 3] for i in range(12)],
        "mme": ["Yes", "No"] * 6,
    }
    for name, answers in oracle.items():
        shutil.copy(data / f"{name}.parquet", tmp_path)
        kinds = ["first" if i < 6 else "second" for i in range(12)]
        table = pa.table({"doc_id": list(range(12)), "kind": kinds, "answer": answers})
        pq.write_table(table, tmp_path / f"{name}.oracle.parquet")
    return tmp_path


@pytest.mark.slow
def test_the_table_sets_scores_beside_what_is_attainable_and_what_is_guessed(
    world: Path, checkpoint: Path, tmp_path: Path
) -> None:
    twin = shutil.copytree(checkpoint, tmp_path / "twin")
    table = acceptance.accept([checkpoint, twin], 12, world, tmp_path / "out", BENCHMARKS)
    rows = {row["benchmark"]: row for row in table["rows"] if row["model"] == "tiny"}
    assert {name: row["attainable"] for name, row in rows.items()} == {
        "gqa": 100,
        "sqa": 100,
        "pope": 100,
        "mmb": 100,
        "mme": 400,
    }
    assert {name: row["chance"] for name, row in rows.items()} == {
        "gqa": "33.3",
        "sqa": "50.0",
        "pope": "50.0",
        "mmb": "25.0",
        "mme": "150.0",
    }
    assert not any(row["passed"] for row in table["rows"])
    assert table["comparisons"] == [
        {"model": "twin", "than": "tiny", "at_least_as_good": 5, "benchmarks": 5},
    ]
    text = acceptance.markdown(table)
    assert "0 of 10 within their bounds" in text
    assert "twin is at least as good as tiny on 5 of 5 benchmarks." in text


def test_the_command_writes_the_table_and_tells_failure(
    world: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    table = {"schema": "dyrate.acceptance", "rows": [], "comparisons": [], "eyes": []}
    monkeypatch.setattr(acceptance, "accept", lambda *given: table)
    given = argparse.Namespace(models=[checkpoint], samples=4, data=world, output=tmp_path / "out")
    assert acceptance.run(given) == 0
    assert json.loads((tmp_path / "out" / "acceptance.json").read_text()) == table
    assert (tmp_path / "out" / "acceptance.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("benchmark", "score", "passed"),
    [("gqa", 69, False), ("gqa", 70, True), ("gqa", 98, False), ("nocaps", 59, False), ("nocaps", 130, True)],
)
def test_bounds(benchmark: str, score: float, passed: bool) -> None:
    primary = "CIDEr" if benchmark == "nocaps" else "exact_match"
    seen, blind = _result(benchmark, primary, score), _result(benchmark, primary, 0)
    assert acceptance._row(seen, blind, benchmark, 100.0, 0.0)["passed"] is passed


def _result(benchmark: str, primary: str, score: float, half: float | None = 0) -> dict:
    interval = {"low": score - half, "high": score + half} if half is not None else dict.fromkeys(LOW_HIGH)
    found = {"primary": primary, "samples": 1, "scores": {primary: {"value": score, **interval}}}
    return {"model": "m", "benchmarks": {benchmark: found}}


@pytest.mark.parametrize(
    ("blind", "half", "passed"),
    [(30, 0, True), (33, 0, True), (33.1, 0, False), (37, 4, True), (37.1, 4, False), (33.1, None, False)],
)
def test_a_model_that_knows_too_much_without_the_image_fails_the_row(
    blind: float, half: float | None, passed: bool
) -> None:
    seen = _result("gqa", "exact_match", 80)
    row = acceptance._row(seen, _result("gqa", "exact_match", blind, half), "gqa", 100.0, 30.0)
    assert row["passed"] is passed
    assert row["chance"] == "30.0"


def test_chance_is_the_best_constant_answer_to_each_kind_of_question(data: Path, tmp_path: Path) -> None:
    answers = [f"word {i % 3}" for i in range(12)]
    loaded = load_tasks(select(["gqa"]), "testbed", data, 12)
    kinds = [f"asks for {answer}" if answer == "word 2" else "others" for answer in answers]
    table = pa.table({"doc_id": list(range(12)), "kind": kinds, "answer": answers})
    pq.write_table(table, tmp_path / "gqa.oracle.parquet")
    best, chance = acceptance._references(loaded, tmp_path)
    assert best == {"gqa": 100}
    assert chance["gqa"] == pytest.approx(100 * (4 + 4) / 12)  # one constant alone gets 4


def test_the_table_is_printed_without_an_interval_too() -> None:
    seen, blind = _result("gqa", "exact_match", 80, None), _result("gqa", "exact_match", 10)
    row = acceptance._row(seen, blind, "gqa", 100.0, 30.0)
    text = acceptance.markdown({"rows": [row], "comparisons": [], "eyes": []})
    assert "| 80.0 | 100.0 | 80.0% | 70 to 97% | 10.0 | 30.0 | 33.0 | pass |" in text


def test_a_missing_oracle_is_named(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DyrateError, match=r"gqa.oracle.parquet: no such file; `dyrate testbed build`"):
        acceptance.accept([checkpoint], 4, data, tmp_path, ("gqa",))


def test_a_damaged_oracle_is_named(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(data / "gqa.parquet", tmp_path)
    (tmp_path / "gqa.oracle.parquet").write_bytes(b"PAR1, or so it says")
    with pytest.raises(DyrateError, match=r"gqa.oracle.parquet: cannot be read as parquet: .*testbed build"):
        acceptance.accept([checkpoint], 4, tmp_path, tmp_path, ("gqa",))
