"""One job: the same bytes every time, also after a kill; and what stands in its files."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dyrate.errors import DyrateError
from dyrate.evaluation import answers, provenance, results
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.evaluate import evaluate_loaded, load
from dyrate.evaluation.harness_tasks import LoadedTask, load_tasks
from dyrate.evaluation.job import Evaluation
from dyrate.evaluation.sweep import sweep
from tests.evaluation.stand_ins import LAYERS, VISUAL

BENCHMARKS = ("gqa", "pope", "mmb", "mme")
FASTV = {"name": "fastv", "layer": 1, "rate": 0.5}


@pytest.fixture(scope="module")
def tasks(data: Path) -> list[LoadedTask]:
    return load_tasks(select(BENCHMARKS), "testbed", data, None)


@pytest.fixture(scope="module")
def make_job(checkpoint: Path, data: Path) -> Callable[..., Evaluation]:
    def job(output: Path, **settings: Any) -> Evaluation:
        defaults = {"method": FASTV, "batch_size": 5, "device": "cpu", "study": "test"}
        defaults |= {"model": str(checkpoint), "benchmarks": BENCHMARKS, "data": data}
        return Evaluation.of({**defaults, "output": output, **settings})

    return job


@pytest.fixture(scope="module")
def model(make_job: Callable[..., Evaluation]) -> DyrateModel:
    return load(make_job(Path()))


def _bytes(folder: Path) -> dict[str, bytes]:
    names = ("greedy.json", "greedy.answers.parquet", "greedy.log.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job") / "out"  # one place, as a result names its folder


@pytest.fixture(scope="module")
def undisturbed(
    folder: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> dict[str, bytes]:
    evaluate_loaded(make_job(folder), model, tasks)
    found = _bytes(folder)
    shutil.rmtree(folder)
    return found


@pytest.fixture
def out(folder: Path) -> Iterator[Path]:
    yield folder
    shutil.rmtree(folder)


class Killed(BaseException):
    """Stands for a kill: nothing in between may catch it."""


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 6])
@pytest.mark.parametrize("torn", [False, True], ids=["between lines", "inside a line"])
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed: dict[str, bytes],
    at: int,
    torn: bool,
    out: Path,
    make_job: Callable[..., Evaluation],
    model: DyrateModel,
    tasks: list[LoadedTask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_job(out)
    runs = 0
    run = model._run

    def killed(*asked: Any) -> Any:
        nonlocal runs
        if runs == at:
            raise Killed
        runs += 1
        return run(*asked)

    with monkeypatch.context() as patched:
        patched.setattr(model, "_run", killed)
        with pytest.raises(Killed):
            evaluate_loaded(job, model, tasks)
    assert not job.files.result.exists()
    lines = job.files.log.read_bytes().splitlines(keepends=True)
    assert len(lines) == at
    if torn and lines:
        job.files.log.write_bytes(b"".join(lines)[:-7])
        at -= 1
    evaluate_loaded(job, model, tasks)
    assert _bytes(out) == undisturbed
    run_information = results.read_run(job.files.run)
    assert run_information["reused_samples"] == sum(len(json.loads(line)["keys"]) for line in lines[:at])


@pytest.mark.slow
def test_a_sigkilled_process_goes_on_in_another(
    undisturbed: dict[str, bytes],
    out: Path,
    checkpoint: Path,
    make_job: Callable[..., Evaluation],
    model: DyrateModel,
    tasks: list[LoadedTask],
) -> None:
    job = make_job(out)
    script = """
import os, signal, sys
from dyrate.cli import main
from dyrate.evaluation.log import ResponseLog
append, count = ResponseLog.append, []
def killing(self, *given):
    count.append(append(self, *given))
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
ResponseLog.append = lambda self, *given: killing(self, *given) or count[-1]
main(sys.argv[1:])
"""
    arguments = ["evaluate", "--benchmarks", *BENCHMARKS, "--model", str(checkpoint), "--data", str(job.data)]
    arguments += ["--method", json.dumps(FASTV), "--batch-size", "5", "--device", "cpu", "--study", "test"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, "--output", str(job.output)],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(job.files.log.read_bytes().splitlines()) == 3
    evaluate_loaded(job, model, tasks)
    assert _bytes(out) == undisturbed


def test_a_second_run_asks_the_model_nothing(
    tmp_path: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> None:
    job = make_job(tmp_path)
    evaluate_loaded(job, model, tasks)
    before = _bytes(tmp_path)
    evaluate_loaded(job, model, tasks)
    assert _bytes(tmp_path) == before
    run = results.read_run(job.files.run)
    assert (run["reused_samples"], run["samples_per_second"]) == (run["samples"], 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"method": {**FASTV, "rate": 0.25}}, {"decoding": {"name": "beam-2"}}, {"batch_size": 3}],
    ids=["method", "decoding", "batches"],
)
def test_a_changed_job_is_not_answered_from_the_log(
    tmp_path: Path,
    make_job: Callable[..., Evaluation],
    model: DyrateModel,
    tasks: list[LoadedTask],
    change: dict,
) -> None:
    job, changed = make_job(tmp_path / "a"), make_job(tmp_path / "b", **change)
    evaluate_loaded(job, model, tasks)
    changed.output.mkdir()
    shutil.copy(job.files.log, changed.files.log)
    if "batch_size" in change:
        model.batch_size = change["batch_size"]
    evaluate_loaded(changed, model, tasks)
    model.batch_size = 5
    assert (
        results.read_run(changed.files.run)["reused_samples"] < 5
    )  # at most a batch that happens to be the same


def test_another_model_is_not_answered_from_the_log(
    tmp_path: Path,
    make_job: Callable[..., Evaluation],
    model: DyrateModel,
    tasks: list[LoadedTask],
    monkeypatch: Any,
) -> None:
    job = make_job(tmp_path)
    evaluate_loaded(job, model, tasks)
    monkeypatch.setattr(model, "weights_hash", "of other weights")
    evaluate_loaded(job, model, tasks)
    assert results.read_run(job.files.run)["reused_samples"] == 0


def test_a_result_says_what_it_is_and_where_it_came_from(
    tmp_path: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> None:
    job = make_job(tmp_path, samples=12)
    result = evaluate_loaded(job, model, tasks)
    assert results.read(job.files.result) == result
    assert (result["study"], result["model"], result["method"]) == ("test", "tiny", FASTV)
    assert result["label"] == "FastV (K=1, R=0.5)"
    for name, found in result["benchmarks"].items():
        assert found["task"] == f"{name}_testbed"
        by_layer = [VISUAL] + [VISUAL / 2] * (LAYERS - 1)
        by_step = found["visual_tokens"].pop("by_step")
        assert found["visual_tokens"] == {"total": VISUAL, "prefill": by_layer, "decode": by_layer}
        assert by_step["answers"][0] == found["samples"]
        assert by_step["mean"] == [by_layer] * len(by_step["answers"])
        assert by_step["deviation"] == [0] * len(by_step["answers"])
    assert [result["benchmarks"][name]["units"] for name in BENCHMARKS] == [12, 12, 3, 6]
    meta = result["meta"]
    assert meta["command"].startswith("dyrate evaluate --benchmarks gqa pope mmb mme --study test --model ")
    assert meta["versions"]["torch"]
    assert meta["hashes"]["data"].keys() == set(BENCHMARKS)
    assert len(meta["hashes"]["weights"]) == 64


def test_answers_stand_beside_with_prompt_reference_and_score(
    tmp_path: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> None:
    job = make_job(tmp_path)
    evaluate_loaded(job, model, tasks)
    found = answers.read(job.files.answers)
    assert {name: len(samples) for name, samples in found.items()} == dict.fromkeys(BENCHMARKS, 12)
    first = found["gqa"][0]
    assert first.prompt == "What is 0?\nAnswer the question using a single word or phrase."
    assert first.references == ["word 0"]
    assert first.scores == {"exact_match": 0.0}
    assert found["mme"][1].unit == "color/0"
    assert found["mmb"][3].unit == "0"
    assert first.category == ""
    categories = {name: {sample.category for sample in found[name]} for name in ("pope", "mmb", "mme")}
    assert all("" not in known for known in categories.values()), "as the data name them"
    assert categories["mme"] == {sample.stratum for sample in found["mme"]}


def test_answers_of_before_there_were_categories_are_read(
    tmp_path: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> None:
    job = make_job(tmp_path)
    result = evaluate_loaded(job, model, tasks)
    older = pq.read_table(job.files.answers).drop_columns("category")
    pq.write_table(older, job.files.answers)
    result["meta"]["hashes"]["answers"] = answers.digest(older.to_pylist())

    assert {sample.category for sample in answers.read(job.files.answers, result)["mme"]} == {""}
    pq.write_table(older.drop_columns("stratum"), job.files.answers)
    with pytest.raises(DyrateError, match="column 'stratum' is missing"):
        answers.read(job.files.answers)


def test_differences_are_taken_from_the_baselines_answers(
    tmp_path: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> None:
    base = make_job(tmp_path / "none", method={"name": "none"})
    evaluate_loaded(base, model, tasks)
    itself = evaluate_loaded(
        make_job(tmp_path / "x", method={"name": "none"}, baseline=base.files.result), model, tasks
    )
    for found in itself["benchmarks"].values():  # of few units without any spread: no interval
        assert found["difference"][found["primary"]] == {"value": 0.0, "low": None, "high": None}


def test_an_unfit_baseline_fails_before_the_model_is_loaded(
    tmp_path: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> None:
    with pytest.raises(DyrateError, match=r"none\.json: no such file"):
        list(sweep([make_job(tmp_path, baseline=tmp_path / "none.json")]))
    base = make_job(tmp_path / "base", method={"name": "none"})
    evaluate_loaded(base, model, tasks)
    result = results.read(base.files.result)
    given = {"baseline": base.files.result}
    with pytest.raises(DyrateError, match=r"its decoding is .*'greedy'.*, should be .*'beam-2'"):
        list(sweep([make_job(tmp_path / "x", decoding={"name": "beam-2"}, **given)]))
    with pytest.raises(DyrateError, match="its model is 'tiny', should be 'other'"):
        list(sweep([make_job(tmp_path / "x", model_name="other", **given)]))
    results.write(base.files.result, {**result, "method": FASTV})
    with pytest.raises(DyrateError, match=r"its method is .*'fastv'.*, should be {'name': 'none'}"):
        list(sweep([make_job(tmp_path / "x", **given)]))
    del result["benchmarks"]["pope"]
    results.write(base.files.result, result)
    with pytest.raises(DyrateError, match="has no benchmark 'pope'; it has gqa, mmb, mme"):
        list(sweep([make_job(tmp_path, baseline=base.files.result)]))
    base.files.answers.unlink()
    job = make_job(tmp_path, baseline=base.files.result, benchmarks=("mmb",))
    with pytest.raises(DyrateError, match="a baseline needs its answers beside its result"):
        list(sweep([job]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hashes": {"weights": "0ther"}}, "its hash of weights is 0ther, this run's"),
        ({"hashes": {"data": {"gqa": "0ther"}}}, "its hash of data of gqa is 0ther, this run's"),
        ({"hashes": {"template": "0ther"}}, "its hash of the prompts' template is 0ther, this run's"),
        ({"pixels": [64, 1024]}, "its images have --pixels 64 1024: ask with the same"),
        ({"dtype": "bfloat16"}, "ran in bfloat16, this run is in float32; say --dtype bfloat16"),
    ],
)
def test_a_baseline_that_was_asked_otherwise_or_of_another_model_is_refused(
    tmp_path: Path,
    make_job: Callable[..., Evaluation],
    model: DyrateModel,
    tasks: list[LoadedTask],
    changed: dict,
    message: str,
) -> None:
    base = make_job(tmp_path / "base", method={"name": "none"})
    result = evaluate_loaded(base, model, tasks)
    changed["hashes"] = {**result["meta"]["hashes"], **changed.get("hashes", {})}
    result["meta"] |= changed
    results.write(base.files.result, result)
    job = make_job(tmp_path / "x", baseline=base.files.result)
    with pytest.raises(DyrateError, match=message):
        evaluate_loaded(job, model, tasks)


def test_what_stands_in_the_way_of_the_output_is_named(
    tmp_path: Path, make_job: Callable[..., Evaluation]
) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DyrateError, match=f"--output {output}: cannot be made a folder"):
            list(sweep([make_job(output)]))


def test_a_baseline_whose_answers_are_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "greedy.answers.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DyrateError, match=r"greedy\.answers\.parquet: cannot be read as parquet"):
        answers.read(tmp_path / "greedy.answers.parquet")


def test_answers_that_were_changed_or_are_another_results_are_refused(
    tmp_path: Path, make_job: Callable[..., Evaluation], model: DyrateModel, tasks: list[LoadedTask]
) -> None:
    base = make_job(tmp_path / "base", method={"name": "none"})
    result = evaluate_loaded(base, model, tasks)
    assert results.read_run(base.files.run, base.files.result)
    found = answers.read(base.files.answers, result)
    for changed in (
        {**found, "gqa": [dataclasses.replace(found["gqa"][0], answer="no"), *found["gqa"][1:]]},
        {**found, "gqa": found["gqa"][:-1]},
        {name: samples for name, samples in found.items() if name != "gqa"},
    ):
        answers.write(base.files.answers, changed)
        with pytest.raises(
            DyrateError, match="holds other answers than those that the result beside it scores"
        ):
            answers.read(base.files.answers, result)
    answers.write(base.files.answers, found)
    results.write(base.files.result, {**result, "label": "Another"})
    with pytest.raises(DyrateError, match="result: is of another content"):
        results.read_run(base.files.run, base.files.result)


def test_threads_do_not_change_the_command(tmp_path: Path, make_job: Callable[..., Evaluation]) -> None:
    assert make_job(tmp_path, threads=1).command() == make_job(tmp_path, threads=4).command()


def _commit_all(folder: Path) -> str:
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "m"], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_says_when_the_package_differs_from_it(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    head = _commit_all(tmp_path)
    assert provenance.commit(package) == head
    (tmp_path / "README.md").write_text("outside of the package")
    assert provenance.commit(package) == head
    (package / "new.py").write_text("")
    assert provenance.commit(package) == f"{head}-dirty"


def test_a_repository_around_the_environment_is_not_the_packages(tmp_path: Path) -> None:
    package = tmp_path / ".venv" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    _commit_all(tmp_path)
    assert provenance.commit(package) is None
