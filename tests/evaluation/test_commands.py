"""The command line: what it prints, and that a mistake is one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dyrate.cli import main
from dyrate.evaluation import results
from dyrate.evaluation.benchmarks import BENCHMARKS


def test_the_short_form_evaluates(checkpoint: Path, data: Path, tmp_path: Path, capsys) -> None:
    method = '{"name": "fastv", "layer": 1, "rate": 0.5}'
    common = [
        "--benchmarks",
        "gqa",
        "pope",
        "--samples",
        "6",
        "--data",
        str(data),
        "--model",
        str(checkpoint),
    ]
    baseline = str(tmp_path / "none" / "beam-2.json")
    more = ["--method", method, "--decoding", "beam-2", "--baseline", baseline]
    assert main(["evaluate", *common, "--decoding", "beam-2", "--output", str(tmp_path / "none")]) == 0
    assert main(["evaluate", *common, *more, "--output", str(tmp_path / "fastv")]) == 0
    out = capsys.readouterr().out
    assert "FastV (K=1, R=0.5), beam-2" in out
    assert "accuracy" in out
    result = results.read(tmp_path / "fastv" / "beam-2.json")
    assert result["benchmarks"]["gqa"]["samples"] == 6
    assert result["benchmarks"]["gqa"]["difference"] is not None
    assert sorted(path.name for path in (tmp_path / "fastv").iterdir()) == [
        "beam-2.answers.parquet",
        "beam-2.json",
        "beam-2.log.jsonl",
        "beam-2.run.json",
    ]


def test_notices_go_to_stderr_and_nothing_but_the_summary_to_stdout(
    checkpoint: Path, data: Path, tmp_path: Path, capfd
) -> None:
    arguments = [
        "evaluate",
        "--benchmarks",
        "gqa",
        "--samples",
        "4",
        "--data",
        str(data),
        "--model",
        str(checkpoint),
    ]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    log = tmp_path / "greedy.log.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    capfd.readouterr()
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "tiny: Unpruned, greedy"
    assert "WARNING: " in err
    assert "dropped a torn last line" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--benchmarks", "gqaa"], "unknown benchmark 'gqaa'; did you mean 'gqa'?"),
        (["--method", "{nope"], "--method: '{nope': not JSON"),
        (["--method", "fastvv"], "unknown reduction method 'fastvv'"),
        (["--decoding", "beam"], "unknown decoding 'beam'"),
        (["--model", "nowhere/at/all"], "--model nowhere/at/all: no such folder"),
        (["--data", "nowhere"], "gqa.parquet: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    checkpoint: Path, data: Path, tmp_path: Path, capsys, change: list[str], message: str
) -> None:
    arguments = {
        "--benchmarks": "gqa",
        "--model": str(checkpoint),
        "--data": str(data),
        "--output": str(tmp_path),
    }
    given = [part for pair in (arguments | dict([change])).items() for part in pair]
    assert main(["evaluate", *given]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("dyrate: error: ")
    assert message in errors[-1]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", "-1", "--seed: -1 is not a whole number from 0 on"),
        ("--samples", "many", "--samples: 'many' is not a whole number"),
        ("--batch-size", "0", "--batch-size: 0 is not a whole number from 1 on"),
        ("--threads", "1.5", "--threads: '1.5' is not a whole number"),
        ("--engine", "grpah", "'grpah' is not one of auto, transformers, graph; did you mean 'graph'?"),
        ("--metrics", "some", "--metrics: 'some' is not one of all, primary"),
    ],
)
def test_an_unfit_value_is_refused_at_once(capsys, option: str, value: str, message: str) -> None:
    assert main(["evaluate", "--model", "m", "--benchmarks", "gqa", "--output", "o", option, value]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--model", "--benchmarks", "--output"])
def test_what_must_be_given_is_asked_for(capsys, option: str) -> None:
    given = {"--model": "m", "--benchmarks": "gqa", "--output": "o"}
    del given[option]
    with pytest.raises(SystemExit):
        main(["evaluate", *(part for pair in given.items() for part in pair)])
    assert f"the following arguments are required: {option}" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "dyrate.cli", "benchmarks"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_benchmarks_are_listed(capsys) -> None:
    assert main(["benchmarks"]) == 0
    text = capsys.readouterr().out
    assert all(benchmark.hub_task in text for benchmark in BENCHMARKS.values())
    assert main(["benchmarks", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["nocaps"]["primary"] == "CIDEr"
    assert listing["mme"]["testbed_task"] == "mme_testbed"


def test_help_teaches(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = capsys.readouterr().out
    assert "greedy.log.jsonl" in text
    assert '--method \'{"name": "fastv"' in text


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_done_without(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    command = [
        sys.executable,
        "-m",
        "dyrate.cli",
        "evaluate",
        "--model",
        str(checkpoint),
        "--data",
        str(data),
    ]
    command += ["--benchmarks", "gqa", "--samples", "2", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, env={**environment, "HOME": "/dev/null/nowhere"}, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out" / "greedy.json").exists()
