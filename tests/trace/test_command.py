"""`dyrate trace` from end to end, on a tiny model and tiny benchmarks."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dyrate.cli import main
from dyrate.evaluation.adapter import DyrateModel
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness import ask, run_harness
from dyrate.evaluation.harness_tasks import load_tasks
from dyrate.trace.files import CLASSES, TraceError, read_summary, write_summary
from tests.evaluation.stand_ins import LAYERS, make_benchmark, make_checkpoint
from tests.trace import fake

SAMPLES = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    make_checkpoint(folder / "tiny")
    for name in ("nocaps", "gqa"):
        make_benchmark(folder, name, 8)
    return folder


def run(place: Path, output: Path, *more: str) -> int:
    common = ["trace", "--model", str(place / "tiny"), "--data", str(place), "--samples", str(SAMPLES)]
    return main(
        [*common, "--benchmarks", "nocaps", "gqa", "--batch-size", "2", "--output", str(output), *more]
    )


@pytest.fixture(scope="module")
def traced(place: Path) -> Path:
    """The summary's path."""
    output = place / "out" / "tiny.json"
    assert run(place, output) == 0
    return output


def test_the_files_tell_the_same_story(traced: Path) -> None:
    summary = read_summary(traced)
    assert (summary["model"], summary["layers"], summary["heads"]) == ("tiny", LAYERS, 2)
    mass = pq.read_table(traced.with_suffix(".parquet")).to_pandas()
    assert list(mass) == ["benchmark", "sample", "step", "layer", *CLASSES]
    assert not mass.duplicated(["benchmark", "sample", "step", "layer"]).any()
    assert {str(mass[name].dtype) for name in CLASSES} == {"float32"}
    assert mass[list(CLASSES)].sum(axis=1).sub(1).abs().max() < 1e-5
    heads = pq.read_table(traced.with_suffix(".heads.parquet")).to_pandas()
    for name, found in summary["benchmarks"].items():
        lines = mass[mass.benchmark == name]
        assert sorted(lines["sample"].unique()) == list(range(SAMPLES)) == list(range(found["samples"]))
        means = lines.groupby("step")["img"].mean()
        assert found["curve"]["img"]["mean"] == pytest.approx(means.tolist(), abs=1e-6)
        by_layer = lines.groupby(["step", "layer"])["img"].mean().unstack()
        over_heads = heads[heads.benchmark == name].groupby(["step", "layer"])["img"].mean().unstack()
        assert over_heads.to_numpy() == pytest.approx(by_layer.to_numpy(), abs=1e-6)
        assert found["img_by_layer"] == [pytest.approx(row, abs=1e-6) for row in by_layer.to_numpy().tolist()]


def test_the_same_trace_gives_the_same_bytes(place: Path, traced: Path) -> None:
    files = {path.name: path.read_bytes() for path in traced.parent.iterdir()}
    assert sorted(files) == ["tiny.heads.parquet", "tiny.json", "tiny.parquet"]
    assert run(place, traced) == 0
    assert {path.name: path.read_bytes() for path in traced.parent.iterdir()} == files


def test_questions_and_answers_are_the_evaluations(place: Path) -> None:
    model = DyrateModel(str(place / "tiny"), device="cpu", batch_size=3)
    [evaluated], [asked] = (load_tasks(select(["gqa"]), "testbed", place, SAMPLES) for _ in range(2))
    samples = run_harness(model, [evaluated])["gqa"].samples
    assert ask(model, asked) == [sample.answer for sample in samples]
    assert [one.args[0] for one in asked.task.instances] == [sample.prompt for sample in samples]


def test_what_is_observed_is_run_and_not_taken_from_a_log(place: Path, tmp_path: Path) -> None:
    model = DyrateModel(str(place / "tiny"), device="cpu", batch_size=3, log=tmp_path / "log.jsonl")
    seen: list[int] = []
    for _ in range(2):
        [loaded] = load_tasks(select(["gqa"]), "testbed", place, SAMPLES)
        ask(model, loaded)
        model.observer = lambda doc_ids, run, made, ends: seen.extend(doc_ids)
    assert sorted(seen) == list(range(SAMPLES))


def test_the_summary_is_printed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, tmp_path / "tiny.json") == 0
    out = capsys.readouterr().out
    assert "nocaps" in out
    assert str(tmp_path / "tiny.json") in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--output", "folder"], "--output folder: name a .json file"),
        (["--benchmarks", "nocap"], "unknown benchmark 'nocap'; did you mean 'nocaps'?"),
        (["--data", "nowhere"], "nocaps.parquet: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    arguments: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(place, Path("tiny.json"), *arguments) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert "Traceback" not in err


def test_a_damaged_summary_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_summary(path, fake.summary("a"))
    document = json.loads(path.read_text())
    document["benchmarks"]["nocaps"]["trends"]["img"]["first"] = 7
    path.write_text(json.dumps(document))
    with pytest.raises(TraceError, match=r"a.json: benchmarks.nocaps.trends"):
        read_summary(path)
