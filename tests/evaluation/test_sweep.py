"""Several evaluations in one process: the bytes of processes of their own, and no failure that spreads."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation import results, sweep
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.evaluate import Evaluation

RANDOM = '{"name": "random", "layer": 1, "rate": 0.5}'
FASTV = '{"name": "fastv", "layer": 1, "rate": 0.5}'
BROKEN = """
from dataclasses import dataclass
from dyrate.methods.fastv import FastV

@dataclass(frozen=True)
class Broken(FastV):
    def prefill(self, view):
        raise TypeError("a mistake in the method")
"""


@pytest.fixture
def first(checkpoint: Path, data: Path) -> list[str]:
    given = {"--model": checkpoint, "--data": data, "--samples": 6, "--batch-size": 4, "--device": "cpu"}
    options = [str(part) for pair in given.items() for part in pair]
    return ["evaluate", "--benchmarks", "gqa", "nocaps", "--metrics", "primary", *options]


@pytest.fixture
def make_job(checkpoint: Path, data: Path) -> Callable[..., Evaluation]:
    def job(output: Path, **settings: Any) -> Evaluation:
        given: dict[str, Any] = {"device": "cpu", "samples": 4, "data": data, **settings}
        return Evaluation(str(checkpoint), select(["gqa"]), output, **given)

    return job


def _bytes(*files: Path) -> list[bytes]:
    return [
        path.with_suffix(end).read_bytes()
        for path in files
        for end in (".json", ".answers.parquet", ".log.jsonl")
    ]


def test_each_result_has_the_bytes_of_a_process_of_its_own(first: list[str], tmp_path: Path) -> None:
    unpruned, random = tmp_path / "none", tmp_path / "random"
    files = (unpruned / "greedy.json", random / "top_p.json", random / "greedy.json")
    parts = (
        ["--output", str(unpruned)],
        ["--output", str(random), "--method", RANDOM, "--decoding", "top_p"],
        ["--output", str(random), "--method", RANDOM, "--decoding", "greedy", "--baseline", str(files[0])],
    )

    assert main([*first, *parts[0], "--then", *parts[1], "--then", *parts[2]]) == 0
    together = _bytes(*files)

    for folder in (unpruned, random):
        shutil.rmtree(folder)
    assert [main([*first, *part]) for part in parts[:2]] == [0, 0]
    subprocess.run(
        [sys.executable, "-m", "dyrate.cli", *first, *parts[2]],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        check=True,
    )
    assert _bytes(*files) == together


def test_what_a_part_does_not_name_is_that_of_the_part_before_but_for_the_baseline(
    first: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = ["--baseline", str(tmp_path / "none/greedy.json")]
    second = ["--method", FASTV, "--benchmarks", "gqa", "--seed", "7", *baseline]

    command = [*first, "--output", str(tmp_path / "none")]
    command += ["--then", *second, "--output", str(tmp_path / "fastv")]
    command += ["--then", "--decoding", "beam-2"]

    assert main(command) == 0

    compared, last = (results.read(tmp_path / "fastv" / name) for name in ("greedy.json", "beam-2.json"))
    assert last["method"] == compared["method"] == {"name": "fastv", "layer": 1, "rate": 0.5}
    assert last["meta"]["seed"] == 7
    assert last["benchmarks"]["gqa"]["samples"] == 6
    assert compared["benchmarks"]["gqa"]["difference"] is not None
    assert last["benchmarks"]["gqa"]["difference"] is None
    assert "--then" not in last["meta"]["command"]
    assert f"--output {tmp_path / 'fastv'}" in last["meta"]["command"]
    assert "FastV (K=1, R=0.5), beam-2" in capsys.readouterr().out


def test_the_model_is_loaded_once_and_tasks_where_they_change(
    make_job: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def counting(name: str) -> None:
        original = getattr(sweep, name)
        monkeypatch.setattr(sweep, name, lambda *a, **k: loaded.append(name) or original(*a, **k))

    counting("load")
    counting("load_tasks")
    jobs = [make_job(tmp_path / name, method={"name": name}) for name in ("none", "text_only")]
    jobs.append(make_job(tmp_path / "fewer", samples=3))

    assert [type(outcome) for outcome in sweep.sweep(jobs)] == [dict] * 3
    assert loaded == ["load", "load_tasks", "load_tasks"]


def test_the_first_one_bears_the_start_of_the_process(
    make_job: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [make_job(tmp_path / name, method={"name": name}) for name in ("none", "text_only")]
    monkeypatch.setattr(sweep, "perf_counter", iter([0.0, 1000.0, 2000.0]).__next__)
    for module in ("evaluate", "adapter"):
        monkeypatch.setattr(f"dyrate.evaluation.{module}.perf_counter", lambda: 1500.0)

    assert len(list(sweep.sweep(jobs))) == 2

    runs = [results.read_run(job.files.run) for job in jobs]
    assert [run["wall_seconds"] for run in runs] == [1500, 500]
    assert [run["stages"]["load"] for run in runs] == [1500, 500]


def test_one_that_fails_takes_no_other_with_it(
    first: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    out = {name: tmp_path / name / "greedy.json" for name in ("a", "b", "c", "d", "e")}
    given = first[first.index("--data") + 1]

    broken = json.dumps({"name": f"{tmp_path}/broken.py:Broken", "layer": 1, "rate": 0.5})
    command = [*first, "--output", str(tmp_path / "a"), "--data", "nowhere"]
    command += ["--then", "--data", given, "--method", FASTV, "--output", str(tmp_path / "b")]
    command += ["--then", "--method", broken, "--output", str(tmp_path / "c")]
    command += ["--then", "--method", FASTV, "--baseline", str(out["a"]), "--output", str(tmp_path / "d")]
    command += ["--then", "--method", "text_only", "--output", str(tmp_path / "e")]

    status = main(command)

    assert status == 2
    assert [name for name, path in out.items() if path.exists()] == ["b", "e"]
    errors = capsys.readouterr().err
    assert f"dyrate: error: {out['a']}: nowhere/gqa.parquet: no such file" in errors
    assert 'raise TypeError("a mistake in the method")' in errors
    assert f"dyrate: error: {out['c']}: a mistake in the method" in errors
    assert f"dyrate: error: {out['d']}: --baseline {out['a']}: the evaluation that makes it failed" in errors


WATCHING = """
from contextlib import contextmanager
from dataclasses import dataclass
from dyrate.methods.fastv import FastV

@dataclass(frozen=True)
class Watching(FastV):
    def __call__(self, model, record=()):
        return watched(super().__call__(model, record), model)

@contextmanager
def watched(attached, model):
    seen = []
    hook = model.model.vision_tower.embeddings.register_forward_hook(lambda *call: seen.append(1))
    with attached as run:
        yield run
    hook.remove()
    assert seen, "the encoder did not run"
"""


def test_a_method_from_elsewhere_may_look_into_the_encoder(
    make_job: Callable[..., Evaluation], tmp_path: Path
) -> None:
    (tmp_path / "watching.py").write_text(WATCHING)
    watching = {"name": f"{tmp_path}/watching.py:Watching", "layer": 1, "rate": 0.5}
    specs = ({"name": "none"}, watching, {"name": "fastv", "layer": 1, "rate": 0.5})
    jobs = [make_job(tmp_path / str(place), method=spec) for place, spec in enumerate(specs)]

    _, watched, plain = sweep.sweep(jobs)

    assert isinstance(watched, dict), watched
    assert isinstance(plain, dict)
    assert watched["benchmarks"] == plain["benchmarks"]


def test_an_interrupt_ends_all(
    make_job: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DyrateModel, "_run", interrupted)
    jobs = [make_job(tmp_path / name, method={"name": name}) for name in ("none", "text_only")]

    with pytest.raises(KeyboardInterrupt):
        list(sweep.sweep(jobs))

    assert not jobs[1].files.log.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, r"two evaluations would write .*/none/greedy\.json"),
        ({"output": "none/../none"}, r"two evaluations would write .*/none/greedy\.json"),
        ({"output": "x", "threads": 3}, "--threads: 3 after None, but one process has one loaded model"),
        ({"output": "x", "batch_size": 3}, "--batch-size: 3 after 16, but one process"),
        ({"output": "x", "method": {"name": "fastv", "layr": 1}}, "has no field 'layr'"),
        ({"output": "x", "decoding": {"name": "beam"}}, "unknown decoding 'beam'"),
        ({"output": "x", "baseline": Path("missing.json")}, r"missing\.json: no such file"),
        ({"output": "file"}, "--output .*file: cannot be made a folder"),
    ],
)
def test_a_mistake_in_any_part_is_refused_before_the_model_is_loaded(
    make_job: Callable[..., Evaluation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sweep, "load", lambda job: pytest.fail("the model was loaded"))
    jobs = [make_job(tmp_path / "none"), make_job(tmp_path / change.pop("output", "none"), **change)]

    with pytest.raises(DyrateError, match=message):
        list(sweep.sweep(jobs))


def test_a_baseline_that_an_earlier_part_makes_is_looked_at_when_its_turn_comes(
    make_job: Callable[..., Evaluation], tmp_path: Path
) -> None:
    base = make_job(tmp_path / "none")
    jobs = [base, make_job(tmp_path / "x", baseline=base.files.result, decoding={"name": "beam-2"})]

    made, refused = sweep.sweep(jobs)

    assert isinstance(made, dict)
    assert "should be {'name': 'beam-2'" in str(refused)


def test_with_one_methods_setting_changed_the_others_are_answered_from_their_logs(
    make_job: Callable[..., Evaluation], tmp_path: Path
) -> None:
    def jobs(rate: float) -> list[Evaluation]:
        specs = ({"name": "text_only"}, {"name": "fastv", "layer": 1, "rate": rate}, {"name": "none"})
        return [make_job(tmp_path / spec["name"], method=spec) for spec in specs]

    list(sweep.sweep(jobs(0.25)))
    list(sweep.sweep(again := jobs(0.75)))

    assert [results.read_run(job.files.run)["reused_samples"] for job in again] == [4, 0, 4]
