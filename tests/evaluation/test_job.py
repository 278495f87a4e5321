"""A job is one record: its command asks for it again, its help shows what it takes, its schema says so."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dyrate.bench.end_to_end.job import HarnessBench
from dyrate.bench.job import Bench
from dyrate.cli import parser
from dyrate.errors import DyrateError
from dyrate.evaluation.job import Evaluation
from dyrate.jobs import Job, asked, flag
from dyrate.predictor_training.job import Training
from dyrate.trace.job import Trace

KINDS = (Evaluation, Trace, Bench, HarnessBench, Training)
FASTV = {"name": "fastv", "layer": 1, "rate": 0.5}
COMMON: dict[str, Any] = {"model": "a b/m", "output": "out"}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Evaluation, {**COMMON, "benchmarks": ["gqa", "pope"], "model_name": "m"}),
        (
            Evaluation,
            {
                **COMMON,
                "benchmarks": ["gqa"],
                "model_name": "it's",
                "method": FASTV,
                "decoding": {"name": "top_p", "top_p": 0.7, "seed": 3},
                "samples": 7,
                "baseline": "none/greedy.json",
                "metrics": "primary",
            },
        ),
        (Trace, {**COMMON, "benchmarks": ["nocaps"], "model_name": "m", "engine": "graph", "data": "d"}),
        (Bench, {**COMMON, "peers": [], "methods": ["none", FASTV], "batch": [1, 8], "profile": True}),
        (Bench, {"shape": "llava-1.5-7b", "engine": ["transformers", "graph"], "warmups": 0, "prompt": [9]}),
        (HarnessBench, {**COMMON, "methods": [FASTV], "samples": 20}),
        (Training, {**COMMON, "recipe": {"layer": 2, "lagged": [3]}, "data": "d.jsonl", "limit": 4}),
    ],
)
def test_a_jobs_command_asks_for_the_job(kind: type[Job], values: dict[str, Any]) -> None:
    job = kind.of(values)

    dyrate, *words = shlex.split(job.command())

    assert dyrate == "dyrate"
    assert asked(kind, parser().parse_args(words)) == [job]


def test_a_command_that_results_hold_names_all_but_threads_in_a_fixed_order() -> None:
    job = Evaluation.of({**COMMON, "benchmarks": ["gqa"], "threads": 3, "samples": 4})

    assert job.command() == (
        "dyrate evaluate --benchmarks gqa --study adhoc --model 'a b/m' --model-name m "
        """--method '{"name": "none"}' --decoding '{"name": "greedy"}' --tasks testbed --samples 4 """
        "--batch-size 16 --device auto --dtype auto --engine auto --seed 0 --output out"
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.command_name)
def test_help_and_schema_describe_each_field(kind: type[Job], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([kind.command_name, "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    schema = kind.model_json_schema()

    assert set(schema["properties"]) == set(kind.model_fields)
    for name, rule in schema["properties"].items():
        assert re.sub(r"\s+", " ", rule["description"]) in shown, name
        assert flag(name) in shown
    for option in ("--device DEVICE auto, cpu, cuda, cuda:N", "--dtype {auto,float32"):
        assert option in shown
    assert shown.count(" (default: auto)") >= 2


def test_the_schema_has_the_limits() -> None:
    rules = Evaluation.model_json_schema()
    assert rules["required"] == ["benchmarks", "model", "output"]
    assert rules["additionalProperties"] is False
    assert rules["properties"]["batch_size"]["minimum"] == 1
    assert rules["properties"]["dtype"]["enum"] == ["auto", "float32", "float16", "bfloat16"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 2.0}, "batch_size: 2.0 is not a whole number"),
        ({"batch_size": True}, "batch_size: True is not a whole number"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is not at most 9223372036854775807"),
        ({"benchmarks": []}, "benchmarks: nothing is given"),
        ({"benchmarks": ["gqa", 3]}, "benchmarks.1: 3 is not text"),
        ({"output": 3}, "output: 3 is not the path of a file"),
        ({"method": {"layer": 3}}, "method: expected a name"),
        ({"metrics": "al"}, "metrics: 'al' is not one of all, primary; did you mean 'all'?"),
        ({"modell": "m"}, "modell is unknown; did you mean 'model'?"),
    ],
)
def test_what_a_record_does_not_take_is_told_by_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DyrateError) as refused:
        Evaluation.of({**COMMON, "benchmarks": ["gqa"], **change})

    (line,) = str(refused.value).splitlines()
    assert line.startswith(message)


def test_each_mistake_has_its_line() -> None:
    with pytest.raises(DyrateError) as refused:
        Evaluation.of({"benchmarks": ["gqa"], "seed": -1}, flag)

    assert str(refused.value).splitlines() == [
        "--model is missing",
        "--seed: -1 is not a whole number from 0 on",
        "--output is missing",
    ]


def test_one_of_a_checkpoint_and_a_shape_is_measured() -> None:
    for given in ({}, {"model": "m", "shape": "s"}):
        with pytest.raises(DyrateError, match="exactly one of --model and --shape must be given"):
            Bench.of(given)
    assert Bench.of({"model": "m"}).output is None
    assert HarnessBench.of({"shape": "s"}).processor == Path("models/testbed-s")
