"""A benchmark that fails takes no other with it; what is missing is named, and asked for again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation import answers, results, sweep
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.results import ResultFiles
from dyrate.trace.files import TraceFiles, read_summary

NAMES = ("gqa", "pope", "mmb")


@pytest.fixture
def place(data: Path, tmp_path: Path) -> Path:
    """The data without POPE's."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("gqa", "mmb"):
        shutil.copy(data / f"{name}.parquet", folder)
    return folder


@pytest.fixture
def arguments(checkpoint: Path, place: Path, tmp_path: Path) -> list[str]:
    given = {"--model": checkpoint, "--data": place, "--samples": 4, "--batch-size": 2, "--device": "cpu"}
    options = [str(part) for pair in given.items() for part in pair]
    return ["evaluate", "--benchmarks", *NAMES, *options, "--output", str(tmp_path / "out")]


@pytest.fixture
def files(tmp_path: Path) -> ResultFiles:
    return ResultFiles(tmp_path / "out", "greedy")


def test_one_that_cannot_be_loaded_is_named_and_asked_for_alone_the_next_time(
    arguments: list[str], files: ResultFiles, data: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    told = capsys.readouterr()
    missing = f"{place / 'pope.parquet'}: no such file (data of task pope_testbed)"
    assert f"dyrate: error: pope: {missing}" in told.err
    assert str(files.partial.result) in told.out
    assert not files.result.exists()
    part = results.read(files.partial.result)
    assert [*part["benchmarks"]] == ["gqa", "mmb"]
    assert part["failed"]["pope"].startswith(missing)
    assert {*answers.read(files.partial.answers, part)} == {"gqa", "mmb"}
    assert results.read_run(files.partial.run, files.partial.result)["reused_samples"] == 0

    shutil.copy(data / "pope.parquet", place)
    assert main(arguments) == 0

    whole = results.read(files.result)
    assert "failed" not in whole
    assert {*whole["benchmarks"]} == {*NAMES}
    assert whole["benchmarks"]["gqa"] == part["benchmarks"]["gqa"]
    run = results.read_run(files.run, files.result)
    assert run["samples"] - run["reused_samples"] == whole["benchmarks"]["pope"]["samples"]
    assert not any(path.exists() for path in (files.partial.result, files.partial.run, files.partial.answers))


def test_one_that_cannot_be_answered_is_named_with_its_row(
    arguments: list[str], files: ResultFiles, data: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(data / "pope.parquet", place)
    question = DyrateModel._question

    def failing(model: DyrateModel, one: Any) -> Any:
        if one.task == "pope_testbed" and one.doc_id == 3:
            raise RuntimeError("CUDA error:\n misaligned address")
        return question(model, one)

    monkeypatch.setattr(DyrateModel, "_question", failing)

    assert main(arguments) == 2

    part = results.read(files.partial.result)
    assert part["failed"] == {"pope": "RuntimeError: CUDA error: misaligned address"}
    monkeypatch.undo()
    assert main([*arguments[:-1], str(files.directory.with_name("alone"))]) == 0
    alone = results.read(files.directory.with_name("alone") / "greedy.json")
    assert part["benchmarks"] == {name: alone["benchmarks"][name] for name in ("gqa", "mmb")}
    assert part["meta"]["hashes"]["code"] == alone["meta"]["hashes"]["code"]


def test_where_all_fail_the_first_error_is_the_runs(
    arguments: list[str], files: ResultFiles, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in place.iterdir():
        path.unlink()

    assert main(arguments) == 2

    assert f"dyrate: error: {place / 'gqa.parquet'}: no such file" in capsys.readouterr().err
    assert not [path for path in files.directory.iterdir() if path.suffix == ".json"]


@pytest.fixture
def job(checkpoint: Path, place: Path) -> Callable[..., Evaluation]:
    def made(output: Path, **settings: Any) -> Evaluation:
        given: dict[str, Any] = {"device": "cpu", "samples": 4, "data": place, **settings}
        return Evaluation(model=str(checkpoint), output=output, **{"benchmarks": NAMES, **given})

    return made


def test_in_a_process_of_several_each_has_its_part(job: Callable[..., Evaluation], tmp_path: Path) -> None:
    specs = ({"name": "none"}, {"name": "fastv", "layer": 1, "rate": 0.5})
    jobs = [job(tmp_path / spec["name"], method=spec) for spec in specs]
    jobs.append(job(tmp_path / "last", benchmarks=("gqa",), method={"name": "text_only"}))

    first, second, third = sweep.sweep(jobs)

    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert isinstance(third, dict)
    assert [[*one["benchmarks"]] for one in (first, second, third)] == [
        ["gqa", "mmb"],
        ["gqa", "mmb"],
        ["gqa"],
    ]
    assert [[*one.get("failed", ())] for one in (first, second, third)] == [["pope"], ["pope"], []]
    assert [path.name for path in sorted(tmp_path.glob("*/greedy.json"))] == ["greedy.json"]


def test_what_ends_a_companion_on_one_benchmark_leaves_it_the_others(
    job: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = DyrateModel._run

    def failing(model: DyrateModel, setting: Any, *asked: Any) -> Any:
        if setting.method.label.startswith("FastV") and "mmb" in str(asked):
            raise RuntimeError("a mistake")
        return run(model, setting, *asked)

    monkeypatch.setattr(DyrateModel, "_run", failing)
    specs = ({"name": "none"}, {"name": "fastv", "layer": 1, "rate": 0.5})
    jobs = [job(tmp_path / spec["name"], method=spec, benchmarks=("gqa", "mmb")) for spec in specs]

    first, second = sweep.sweep(jobs)

    assert isinstance(first, dict)
    assert "failed" not in first
    assert isinstance(second, dict)
    assert second["failed"] == {"mmb": "RuntimeError: a mistake"}


def test_a_baseline_that_is_not_whole_is_none(job: Callable[..., Evaluation], tmp_path: Path) -> None:
    base = job(tmp_path / "none")
    compared = job(tmp_path / "x", baseline=base.files.result, benchmarks=("gqa",))

    first, second = sweep.sweep([base, compared])

    assert isinstance(first, dict)
    assert isinstance(second, DyrateError)
    assert "the evaluation that makes it failed" in str(second)


def test_a_trace_keeps_what_it_has(
    checkpoint: Path, place: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "trace/tiny.json"
    options = ["--data", str(place), "--samples", "2", "--batch-size", "2", "--output", str(output)]
    command = ["trace", "--model", str(checkpoint), "--benchmarks", "gqa", "pope", *options]

    assert main(command) == 2

    told = capsys.readouterr()
    assert f"dyrate: error: pope: {place / 'pope.parquet'}: no such file" in told.err
    part = TraceFiles(output).partial
    summary = read_summary(part.summary)
    assert ([*summary["benchmarks"]], [*summary["failed"]]) == (["gqa"], ["pope"])
    assert not output.exists()

    shutil.copy(data / "pope.parquet", place)
    assert main(command) == 0
    assert [*json.loads(output.read_text())["benchmarks"]] == ["gqa", "pope"]
    assert not part.summary.exists()
    assert not part.mass.exists()
