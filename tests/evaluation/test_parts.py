"""Answers that several processes give together: the bytes of one process, and nothing asked twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation.parts import batches_of

FASTV = '{"name": "fastv", "layer": 1, "rate": 0.5}'
SAMPLED = '{"name": "top_p", "temperature": 1.5}'


@pytest.fixture
def evaluate(checkpoint: Path, data: Path) -> Callable[..., int]:
    def run(output: Path, *more: str, decoding: str = "greedy") -> int:
        given = {"--model": checkpoint, "--data": data, "--samples": 7, "--batch-size": 2, "--device": "cpu"}
        options = [str(part) for pair in given.items() for part in pair]
        command = ["evaluate", "--benchmarks", "gqa", "nocaps", "--metrics", "primary", "--method", FASTV]
        return main([*command, *options, "--decoding", decoding, "--output", str(output), *more])

    return run


def run_of(folder: Path, decoding: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{decoding}.run.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("decoding", "slug"), [("greedy", "greedy"), (SAMPLED, "top_p-temperature=1.5")])
def test_parts_give_what_one_process_gives(
    evaluate: Callable[..., int], tmp_path: Path, decoding: str, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shared = tmp_path / "whole/x", tmp_path / "shared/x"
    assert evaluate(whole, decoding=decoding) == 0
    for part in ("1/3", "3/3", "2/3"):
        assert evaluate(shared, "--part", part, decoding=decoding) == 0
    assert not (shared / f"{slug}.json").exists()
    logs = sorted(path.name for path in (shared / f"{slug}.parts").iterdir())
    assert logs == [f"{name}.{n}-of-3.jsonl" for name in ("gqa", "nocaps") for n in (1, 2, 3)]
    assert sum(len(path.read_text().splitlines()) for path in (shared / f"{slug}.parts").iterdir()) == 8

    assert evaluate(shared, decoding=decoding) == 0

    assert run_of(shared, slug)["reused_samples"] == 14
    first, second = (json.loads((folder / f"{slug}.json").read_text()) for folder in (whole, shared))
    first["meta"]["command"] = second["meta"]["command"]  # which names the folder
    assert first == second
    assert (whole / f"{slug}.answers.parquet").read_bytes() == (
        shared / f"{slug}.answers.parquet"
    ).read_bytes()


def test_what_no_part_has_answered_the_evaluation_answers(
    evaluate: Callable[..., int], tmp_path: Path
) -> None:
    assert evaluate(tmp_path, "--part", "1/4") == 0
    assert evaluate(tmp_path) == 0
    run = run_of(tmp_path, "greedy")
    assert (run["samples"], run["reused_samples"]) == (14, 4)


def test_what_was_answered_before_is_not_asked_again(evaluate: Callable[..., int], tmp_path: Path) -> None:
    assert evaluate(tmp_path) == 0
    assert evaluate(tmp_path, "--part", "1/2") == 0
    assert [path.read_bytes() for path in (tmp_path / "greedy.parts").iterdir()] == [b"", b""]
    (tmp_path / "greedy.log.jsonl").unlink()
    for part in ("1/2", "1/4", "3/4"):  # the last two are the first one's batches
        assert evaluate(tmp_path, "--part", part) == 0
    logs = {path.name: len(path.read_bytes()) for path in (tmp_path / "greedy.parts").iterdir()}
    assert {name for name, size in logs.items() if size} == {"gqa.1-of-2.jsonl", "nocaps.1-of-2.jsonl"}


def test_a_damaged_answer_of_a_part_is_given_again(evaluate: Callable[..., int], tmp_path: Path) -> None:
    assert evaluate(tmp_path / "sound") == 0
    assert evaluate(tmp_path / "cut", "--part", "1/1") == 0
    log = tmp_path / "cut/greedy.parts/gqa.1-of-1.jsonl"
    first, *rest = log.read_text().splitlines(keepends=True)
    batch = json.loads(first)
    batch["answers"] = ["never said" for _ in batch["answers"]]
    log.write_text(json.dumps(batch) + "\n" + "".join(rest) + '{"torn')

    assert evaluate(tmp_path / "cut") == 0

    assert run_of(tmp_path / "cut", "greedy")["reused_samples"] == 12
    sound, cut = (tmp_path / name / "greedy.answers.parquet" for name in ("sound", "cut"))
    assert sound.read_bytes() == cut.read_bytes()


def test_a_part_that_fails_is_left_to_the_evaluation_which_tells(
    evaluate: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for path in data.iterdir():
        (tmp_path / "data" / path.name).write_bytes(
            path.read_bytes() if path.stem != "gqa" else b"not parquet"
        )
    there = ["--data", str(tmp_path / "data")]

    assert evaluate(tmp_path / "out", "--part", "1/2", *there) == 0
    told = capsys.readouterr().err
    assert "gqa" in told
    assert "left to the evaluation itself" in told
    assert evaluate(tmp_path / "out", *there) == 2
    partial = json.loads((tmp_path / "out/greedy.partial.json").read_text())
    assert (list(partial["benchmarks"]), list(partial["failed"])) == (["nocaps"], ["gqa"])


@pytest.mark.parametrize("part", ["", "0/2", "3/2", "2", "1/2/3", "-1/2", "a/b", "1/0"])
def test_a_part_is_one_of_some(part: str) -> None:
    with pytest.raises(DyrateError, match="should be K/N with K from 1 to N"):
        batches_of(part)


def test_parts_are_all_batches_and_no_batch_twice() -> None:
    layout = list(range(11))
    assert sorted(one for n in range(1, 5) for one in layout[batches_of(f"{n}/4")]) == layout
