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
import yaml

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation import results, sweep
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.job import Evaluation

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
        return Evaluation(model=str(checkpoint), benchmarks=("gqa",), output=output, **given)

    return job


def listed(folder: Path, jobs: list[dict[str, Any]]) -> list[str]:
    """The options that ask for jobs, which it puts into a file."""
    path = folder / "jobs.yaml"
    path.write_text(yaml.safe_dump(jobs))
    return ["--jobs", str(path)]


def _bytes(*files: Path) -> list[bytes]:
    return [
        path.with_suffix(end).read_bytes()
        for path in files
        for end in (".json", ".answers.parquet", ".log.jsonl")
    ]


@pytest.mark.slow
def test_each_result_has_the_bytes_of_a_process_of_its_own(first: list[str], tmp_path: Path) -> None:
    unpruned, random = tmp_path / "none", tmp_path / "random"
    files = (unpruned / "greedy.json", random / "top_p.json", random / "greedy.json")
    jobs = [
        {"output": str(unpruned)},
        {"output": str(random), "method": RANDOM, "decoding": "top_p"},
        {"output": str(random), "method": RANDOM, "decoding": "greedy", "baseline": str(files[0])},
    ]
    parts = [[part for key, value in job.items() for part in (f"--{key}", value)] for job in jobs]

    assert main([*first, *listed(tmp_path, jobs)]) == 0
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


@pytest.mark.slow
def test_what_stands_beside_the_file_holds_for_the_jobs_that_do_not_name_it(
    first: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fastv = {"method": json.loads(FASTV), "benchmarks": ["gqa"], "seed": 7, "output": str(tmp_path / "fastv")}
    jobs = [
        {"output": str(tmp_path / "none")},
        {**fastv, "baseline": str(tmp_path / "none/greedy.json")},
        {**fastv, "decoding": "beam-2", "samples": 5},
    ]

    assert main([*first, *listed(tmp_path, jobs)]) == 0

    compared, last = (results.read(tmp_path / "fastv" / name) for name in ("greedy.json", "beam-2.json"))
    assert last["method"] == compared["method"] == {"name": "fastv", "layer": 1, "rate": 0.5}
    assert last["meta"]["seed"] == 7
    assert [found["benchmarks"]["gqa"]["samples"] for found in (compared, last)] == [6, 5]
    assert list(compared["benchmarks"]) == ["gqa"]
    assert compared["benchmarks"]["gqa"]["difference"] is not None
    assert last["benchmarks"]["gqa"]["difference"] is None
    assert "--jobs" not in last["meta"]["command"]
    assert f"--output {tmp_path / 'fastv'}" in last["meta"]["command"]
    assert "FastV (K=1, R=0.5), beam-2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {output: x, batch_siz: 3}", "jobs.yaml: 0.batch_siz is unknown; did you mean 'batch_size'?"),
        ("- {output: x}\n- {output: y, seed: -1}", "jobs.yaml: 1.seed: -1 is not a whole number from 0 on"),
        (
            "- {output: x, dtype: float8}",
            "0.dtype: 'float8' is not one of auto, float32, float16, bfloat16; did you",
        ),
        ("- {method: none}", "jobs.yaml: 0.output is missing"),
        ("- {output: x, method: {layer: 1}}", "jobs.yaml: 0.method: expected a name, or a mapping with"),
        ("- {output: x, benchmarks: [gqaa]}", "unknown benchmark 'gqaa'; did you mean 'gqa'?"),
        ("- {output: x, samples: 1, samples: 2}", "jobs.yaml is no YAML: line 1: the key 'samples' stands"),
        ("- none", "jobs.yaml: 0: 'none' is not a mapping of options"),
        ("output: x", "jobs.yaml: expected a list of jobs"),
        ("[]", "jobs.yaml: expected a list of jobs"),
    ],
)
def test_a_mistake_in_a_file_of_jobs_is_told_with_its_place(
    first: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "jobs.yaml").write_text(text)

    assert main([*first, "--jobs", str(tmp_path / "jobs.yaml")]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dyrate: error: ")
    assert message in line


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
    for module in ("evaluate", "turn"):
        monkeypatch.setattr(f"dyrate.evaluation.{module}.perf_counter", lambda: 1500.0)

    assert len(list(sweep.sweep(jobs))) == 2

    runs = [results.read_run(job.files.run) for job in jobs]
    assert [run["wall_seconds"] for run in runs] == [1500, 500]
    assert [run["stages"]["load"] for run in runs] == [1500, 500]


@pytest.mark.slow
def test_one_that_fails_takes_no_other_with_it(
    first: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    out = {name: tmp_path / name / "greedy.json" for name in ("a", "b", "c", "d", "e")}
    broken = {"name": f"{tmp_path}/broken.py:Broken", "layer": 1, "rate": 0.5}
    jobs = [
        {"output": str(tmp_path / "a"), "data": "nowhere"},
        {"output": str(tmp_path / "b"), "method": FASTV},
        {"output": str(tmp_path / "c"), "method": broken},
        {"output": str(tmp_path / "d"), "method": FASTV, "baseline": str(out["a"])},
        {"output": str(tmp_path / "e"), "method": "text_only"},
    ]

    status = main([*first, *listed(tmp_path, jobs)])

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
    def __call__(self, model, *given):
        return watched(super().__call__(model, *given), model)

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

    assert not jobs[1].files.result.exists()
    assert jobs[1].files.log.read_bytes() == b""


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


@pytest.mark.slow
def test_methods_answer_each_batch_together_and_as_they_would_alone(
    make_job: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods: list[dict[str, Any]] = [
        {"name": "downsample", "rate": 0.5},
        {"name": "fastv", "layer": 1, "rate": 0.5},
        {"name": "text_only"},
        {"name": "random", "layer": 1, "rate": 0.25},
        {"name": "none"},
        {"name": "vtw", "layer": 1},
        {"name": "fixed_prune", "layer": 1, "rate": 0.5, "prune_prefill": False},
    ]
    ran: list[str] = []

    def watched(job: Evaluation, run: Any = sweep.load) -> DyrateModel:
        model: Any = run(job)
        layers = model.model.model.language_model.layers
        parts = {"tower": model.model.model.vision_tower.embeddings, "first": layers[0].mlp.act_fn}
        for name, part in {**parts, "last": layers[-1].mlp.act_fn}.items():
            part.register_forward_hook(
                lambda module, args, made, name=name: ran.append(name) if made.shape[1] > 1 else None
            )
        return model  # type: ignore[no-any-return]

    monkeypatch.setattr(sweep, "load", watched)
    jobs = [
        [
            make_job(tmp_path / where / str(place), method=one, batch_size=2)
            for place, one in enumerate(methods)
        ]
        for where in ("together", "alone")
    ]
    together = list(sweep.sweep(jobs[0]))
    shared = {name: ran.count(name) for name in ("tower", "first", "last")}
    ran.clear()
    alone = [outcome for job in jobs[1] for outcome in sweep.sweep([job])]

    assert [type(outcome) for outcome in (*together, *alone)] == [dict] * 14
    ends = (".answers.parquet", ".log.jsonl")
    for one, other in zip(*jobs, strict=True):
        for end in ends:
            paths = (job.files.result.with_suffix(end) for job in (one, other))
            assert len({path.read_bytes() for path in paths}) == 1, (one.method, end)
    # Two batches: the tower runs on images as they come and resized, the layer before the first that prunes
    # on other prompts where images were resized or hidden.
    assert shared["tower"] == 4
    assert ran.count("tower") == 2 * len(methods)
    assert shared["first"] < ran.count("first") == 2 * len(methods)
    assert shared["last"] == ran.count("last") == 2 * len(methods)


def test_what_ends_a_companion_is_told_in_its_own_turn(
    make_job: Callable[..., Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = DyrateModel._run

    def failing(model: DyrateModel, setting: Any, *asked: Any) -> Any:
        if setting.method.label.startswith("FastV"):
            raise RuntimeError("a mistake")
        return run(model, setting, *asked)

    monkeypatch.setattr(DyrateModel, "_run", failing)
    specs = ({"name": "none"}, {"name": "fastv", "layer": 1, "rate": 0.5}, {"name": "text_only"})
    damaged = make_job(tmp_path / "text_only", method=specs[2])
    damaged.output.mkdir()
    damaged.files.log.write_text("{}\n")
    jobs = [*(make_job(tmp_path / spec["name"], method=spec) for spec in specs[:2]), damaged]

    first, second, third = sweep.sweep(jobs)

    assert isinstance(first, dict)
    assert str(second) == "a mistake"
    assert "line 1 is damaged" in str(third)


def test_a_predictor_that_is_not_there_takes_no_other_job_with_it(
    make_job: Callable[..., Evaluation], tmp_path: Path
) -> None:
    specs = (
        {"name": "none"},
        {"name": "dyrate", "predictor": str(tmp_path / "nowhere")},
        {"name": "text_only"},
    )
    jobs = [make_job(tmp_path / spec["name"], method=spec) for spec in specs]

    first, second, third = sweep.sweep(jobs)

    assert isinstance(first, dict)
    assert isinstance(second, DyrateError)
    assert "nowhere" in str(second)
    assert isinstance(third, dict)


def test_with_one_methods_setting_changed_the_others_are_answered_from_their_logs(
    make_job: Callable[..., Evaluation], tmp_path: Path
) -> None:
    def jobs(rate: float) -> list[Evaluation]:
        specs = ({"name": "text_only"}, {"name": "fastv", "layer": 1, "rate": rate}, {"name": "none"})
        return [make_job(tmp_path / spec["name"], method=spec) for spec in specs]

    list(sweep.sweep(jobs(0.25)))
    list(sweep.sweep(again := jobs(0.75)))

    assert [results.read_run(job.files.run)["reused_samples"] for job in again] == [4, 0, 4]
