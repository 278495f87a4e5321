"""Result files: what is written reads back, and what is wrong is said per key."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from dyrate.evaluation import results
from dyrate.files import write_json

RESULT: results.Result = {
    "schema": "dyrate.result",
    "version": 1,
    "study": "testbed",
    "model": "testbed-s",
    "method": {"name": "fastv", "layer": 2, "rate": 0.5},
    "label": "FastV (K=2, R=0.5)",
    "decoding": {"name": "greedy"},
    "benchmarks": {
        "gqa": {
            "task": "gqa_testbed",
            "samples": 100,
            "primary": "exact_match",
            "scores": {
                "exact_match": {
                    "value": 71.0,
                    "low": 62.0,
                    "high": 79.0,
                    "unit": "percent",
                    "higher_is_better": True,
                }
            },
            "difference": {"exact_match": {"value": -2.0, "low": -5.0, "high": 1.0}},
            "visual_tokens": {"total": 144.0, "prefill": [144.0, 72.0], "decode": [144.0, 72.0]},
        }
    },
    "meta": {"command": "dyrate evaluate", "seed": 0, "device": "cpu", "dtype": "float32"},
}


def test_a_result_reads_back_and_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    results.write(tmp_path / "a.json", RESULT)
    results.write(tmp_path / "b.json", dict(reversed(RESULT.items())))
    assert results.read(tmp_path / "a.json") == RESULT
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_third_party_may_leave_out_differences_and_visual_tokens(tmp_path: Path) -> None:
    result = copy.deepcopy(RESULT)
    result["benchmarks"]["gqa"] |= {"difference": None, "visual_tokens": None}
    results.write(tmp_path / "a.json", result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "schema: 'other' is not dyrate.result$"),
        ({"version": 2}, "version: 2 is not 1$"),
        ({"model": 3}, "model: 3 is not text"),
        ({"method": {}}, r"method\.name is missing"),
        ({"extra": 1}, "extra is unknown; did you mean 'meta'"),
        ({"benchmarks": {}}, "benchmarks: nothing is given"),
    ],
)
def test_each_problem_is_one_line_with_file_and_key(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**RESULT, **change}))
    with pytest.raises(results.ResultError, match=f"^{path}: {message}"):
        results.read(path)


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    result = copy.deepcopy(RESULT)
    result["benchmarks"]["gqa"]["scores"]["exact_match"]["value"] = "71"
    del result["benchmarks"]["gqa"]["samples"]
    with pytest.raises(results.ResultError) as caught:
        results.write(tmp_path / "x.json", result)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("x.json: benchmarks.gqa.samples is missing")
    assert lines[1].endswith("x.json: benchmarks.gqa.scores.exact_match.value: '71' is not a number")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("primary", "cider", "primary: 'cider' is not in scores, which has exact_match"),
        (
            "difference",
            {"exact_match": {"value": 0.0, "low": 7.0, "high": 1.0}},
            r"difference\.exact_match: \[7\.0, 1\.0\] is not an interval",
        ),
    ],
)
def test_what_a_type_cannot_say_is_checked_too(tmp_path: Path, key: str, value: Any, message: str) -> None:
    result = copy.deepcopy(RESULT)
    result["benchmarks"]["gqa"][key] = value
    with pytest.raises(results.ResultError, match=r"x\.json: benchmarks\.gqa.{1,2}" + message):
        results.write(tmp_path / "x.json", result)


@pytest.mark.parametrize(
    ("change", "right"), [({}, True), ({"label": ""}, False), ({"method": {}}, False), ({"more": 1}, False)]
)
def test_other_producers_can_have_it_as_a_json_schema(change: dict, right: bool) -> None:
    schema = TypeAdapter(results.Result).json_schema()
    assert jsonschema.Draft202012Validator(schema).is_valid({**RESULT, **change}) == right


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("{", "not JSON"), ("[]", r"x\.json: \[\] is not a mapping")],
)
def test_what_is_no_result_file_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(results.ResultError, match=message):
        results.read(tmp_path / "x.json")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(tmp_path: Path, number: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(RESULT).replace("71.0", number))
    with pytest.raises(results.ResultError, match=f"{number} is no number of JSON"):
        results.read(tmp_path / "x.json")


def test_a_folder_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(results.ResultError, match=f"{tmp_path}: cannot be read"):
        results.read(tmp_path)


def test_run_information_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.run.json", RUN)
    assert results.read_run(tmp_path / "a.run.json") == RUN
    (tmp_path / "b.run.json").write_text('{"schema": "dyrate.run"}')
    with pytest.raises(results.ResultError, match="version is missing"):
        results.read_run(tmp_path / "b.run.json")
    (tmp_path / "b.run.json").write_text('{"schema": "dyrate.run", "version": 1}')
    with pytest.raises(results.ResultError, match=r"date is missing\n.*wall_seconds is missing\n"):
        results.read_run(tmp_path / "b.run.json")
    wrong = {**RUN, "wall_seconds": "1", "seconds": 3, "version": 1}
    (tmp_path / "c.run.json").write_text(json.dumps(wrong))
    with pytest.raises(
        results.ResultError, match=r"wall_seconds: '1' is not a number\n.* seconds: 3 is not a mapping"
    ):
        results.read_run(tmp_path / "c.run.json")


RUN: results.RunInformation = {
    "schema": "dyrate.run",
    "version": 1,
    "date": "2026-01-01T00:00:00+00:00",
    "wall_seconds": 1.0,
    "generate_seconds": 0.5,
    "samples": 2,
    "samples_per_second": 4.0,
    "reused_samples": 0,
    "seconds": {"gqa": 0.5},
    "stages": {},
    "host": {},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"date": "yesterday"}, "date: 'yesterday' is no date such as"),
        ({"date": "2999-01-01T00:00:00+00:00"}, "date: 2999-.* is in the future"),
        ({"generate_seconds": 2.0}, r"generate_seconds: 2\.0, but the whole job took 1\.0"),
        ({"reused_samples": 3}, "reused_samples: 3 of 2"),
        ({"seconds": {"gqa": -1}}, r"seconds\.gqa: -1 is not a number from 0 on"),
        ({"result": "0" * 64}, "result: is of another content of .*result.json.*evaluate it again"),
    ],
)
def test_run_information_that_cannot_be_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "result.json").write_text("{}")
    write_json(tmp_path / "run.json", {**RUN, **change})
    with pytest.raises(results.ResultError, match=message):
        results.read_run(tmp_path / "run.json", tmp_path / "result.json")


def test_the_files_of_a_result_lie_beside_it() -> None:
    files = results.ResultFiles.beside(Path("r/none/beam-2.json"))
    assert files == results.ResultFiles(Path("r/none"), "beam-2")
    assert [p.name for p in (files.result, files.run, files.answers, files.log)] == [
        "beam-2.json",
        "beam-2.run.json",
        "beam-2.answers.parquet",
        "beam-2.log.jsonl",
    ]
