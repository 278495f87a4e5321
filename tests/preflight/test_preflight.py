"""What a preflight finds, and its hours: on a study of stand-ins, and on the paper's own config."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dyrate.cli import main
from dyrate.cost.shapes import LLAVA
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.preflight import estimate, here, hub, preflight
from dyrate.preflight.estimate import Times, estimates
from dyrate.preflight.findings import Finding, table
from dyrate.study import Study
from dyrate.training_questions.job import CAULDRON
from tests.evaluation.fake_hub import COMMIT, Repo, card, playing
from tests.evaluation.stand_ins import make_benchmark

REPOSITORY = Path(__file__).parents[2]
PAPER = REPOSITORY / "config/paper.yaml"


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(REPOSITORY)
    return Study.read(PAPER)


def small(**change: Any) -> Study:
    config = {
        "study": "small",
        "tasks": "hub",
        "samples": None,
        "device": "cuda",
        "dtype": "float16",
        "resources": {"gpu": 1},
        "models": [{"name": "seven", "path": "llava-hf/llava-1.5-7b-hf", "published": "LLaVA-1.5-7B"}],
        "methods": [{"name": "none"}, {"name": "fastv", "layer": 2, "rate": 0.5}],
        "benchmarks": ["pope", "nocaps"],
    }
    return Study.of(config | change)


def only(findings: Any, state: str) -> dict[str, Finding]:
    return {one.what: one for one in findings if one.state == state}


@pytest.mark.parametrize(("name", "gibibytes"), [("LLaVA-1.5-7B", 27.1), ("LLaVA-1.5-13B", 45.2)])
def test_memory_is_no_less_than_what_was_measured_and_little_more(name: str, gibibytes: float) -> None:
    weights, row = here.memory(LLAVA[name], "bfloat16")
    assert (
        gibibytes <= weights + 32 * row <= 1.1 * gibibytes
    )  # results/h200: unpruned, batch 32, 64 new tokens


def test_a_gpu_that_is_too_small_is_told_with_the_batch_that_fits() -> None:
    assert only(here.gpu(small(), 80), "ok").keys() == {"GPU memory: seven"}
    tight = only(here.gpu(small(batch_size=64), 24), "note")["GPU memory: seven"]
    fits = int(tight.cure.removeprefix("batch_size: "))
    weights, row = here.memory(LLAVA["LLaVA-1.5-7B"], "float16")
    assert weights + fits * row <= 0.95 * 24 < weights + (fits + 1) * row
    assert only(here.gpu(small(), 12), "fails").keys() == {"GPU memory: seven"}


def test_bits_and_several_gpus_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(gibibytes: float, gpus: int = 1, **model: Any) -> dict[str, Finding]:
        [entry] = small().config["models"]
        study = small(models=[{**entry, **model}], resources={"gpu": gpus})
        return {one.state: one for one in here.gpu(study, gibibytes)}

    assert "device_map: auto" in on(12)["fails"].cure
    assert "bits: 8" in on(12)["fails"].cure
    assert on(12, bits=8)["note"].cure.startswith("batch_size: ")
    assert "8 bits to a weight" in on(24, bits=8)["ok"].found
    assert on(6, bits=8)["fails"].cure.endswith("auto (the model over several GPUs), or bits: 4")
    assert "over 2 GPUs" in on(12, 2, device_map="auto")["ok"].found
    whole, half = (here.memory(LLAVA["LLaVA-1.5-7B"], "bfloat16", bits)[0] for bits in (None, 8))
    assert 0.5 < half / whole < 0.56  # the tower, the head and what is looked up stay
    monkeypatch.setattr(here, "find_spec", lambda name: None)
    study = small(models=[{**small().config["models"][0], "bits": 4}])
    assert only(here.quantization(study), "fails")["bitsandbytes"].cure == "pip install bitsandbytes"
    assert not [*here.quantization(small())]


def test_a_machine_without_a_gpu_fails_unless_told_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--gpu-memory" in only(here.gpu(small(), None), "fails")["GPU"].cure
    cpu = small(device="cpu", dtype="float32", resources={"gpu": 0})
    assert only(here.gpu(cpu, None), "ok").keys() == {"GPU"}


def test_questions_to_train_on_are_missed(
    paper: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"name": "default", "data": "own/train.jsonl", "layer": 2}
    study = small(predictors=[data], methods=[{"name": "none"}, {"name": "dyrate", "predictor": "default"}])
    found = only(here.training(study), "fails")["training questions"]
    assert "own/train.jsonl is not there" in found.found
    assert "leave out dyrate" in found.cure
    (tmp_path / "own").mkdir()
    (tmp_path / "own/train.jsonl").touch()
    assert only(here.training(study), "ok")


def test_questions_that_a_rule_makes_are_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = f"data/{small().name}/train.jsonl"
    trained = {"name": "default", "data": made, "layer": 2}
    methods = [{"name": "none"}, {"name": "dyrate", "predictor": "default"}]
    found = only(here.training(small(predictors=[trained], methods=methods)), "ok")
    assert found["training questions"].found == f"{made} is made by a rule, of {CAULDRON} on the hub"


def test_space_is_summed_where_disks_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "a"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "b/c"))
    usage = type("Usage", (), {"free": 10_000_000_000})
    monkeypatch.setattr(here.shutil, "disk_usage", lambda path: usage)
    states = [one.state for one in here.space(small(), 6_000_000_000, 5_000_000_000)]
    assert states == ["ok", "fails", "fails"]


def test_hours_are_those_of_the_measured_times(paper: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times.recorded()
    study = small(benchmarks=["nocaps"], batch_size=32)
    unpruned, fastv = estimates(study, times)

    timing, measured = times.timing(LLAVA["LLaVA-1.5-7B"], {"name": "none"}, "graph", 32)
    assert timing is not None
    assert (timing.batch, timing.engine, measured) == (32, "graph", True)
    per_row = (timing.first_token_ms.median + 19 * timing.per_token_ms.median) / 32 / 1000 + times.host
    assert unpruned.hours == pytest.approx(4500 * per_row / 3600)
    assert fastv.measured
    assert fastv.hours < unpruned.hours
    assert 0.005 < times.host < 0.03
    slower = [one.hours for one in estimates(study, times, speed=0.5)]
    assert unpruned.hours < slower[0] < 2 * unpruned.hours  # the host is as fast as before


def test_a_method_that_nobody_timed_counts_as_unpruned(paper: Study) -> None:
    study = small(methods=[{"name": "none"}, {"name": "prumerge"}, {"name": "dyrate", "predictor": "p"}],
                  predictors=[{"name": "p", "data": "d.jsonl", "layer": 2}])  # fmt: skip
    found = [*estimates(study, Times.recorded())]
    assert [one.measured for one in found] == [True, False, False]
    assert len({one.hours for one in found}) == 1
    assert "as unpruned" in "\n".join(estimate.table(found))


def test_a_shape_that_nobody_timed_has_no_hours(paper: Study) -> None:
    study = small(models=[{"name": "other", "path": "org/other"}], methods=[{"name": "none"}])
    found = [*estimates(study, Times.recorded())]
    assert [one.hours for one in found] == [None]
    assert "of which nothing is known" in [*estimate.table(found)][-1]


def test_of_the_modern_study_each_line_says_what_is_missing(
    paper: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["preflight", "--configfile", "config/modern.yaml", "--gpu-memory", "80"]) == 1
    shown = capsys.readouterr().out
    study = Study.read(REPOSITORY / "config/modern.yaml")
    for name in (
        *(f"data {one}" for one in study.benchmarks),
        *(f"model {one.name}" for one in study.models),
    ):
        assert any(line.startswith(f"fails  {name} ") for line in shown.splitlines()), name
    assert shown.count("its sizes are not known") == len(study.models)
    assert shown.count("rows   not measured") == len(study.jobs)


def test_a_data_set_of_several_configurations_is_looked_at_in_the_one_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    docs, graphics = (make_benchmark(tmp_path, name, 12).read_bytes() for name in ("docvqa", "infovqa"))
    readme = card({"DocVQA": {"validation": "d/*"}, "InfographicVQA": {"validation": "i/v*", "test": "i/t*"}})
    files = {"d/v.parquet": docs, "i/v.parquet": graphics, "i/t.parquet": bytes(5000), "README.md": readme}
    model = {"name": "tiny", "path": str(tmp_path)}
    with playing(tmp_path, monkeypatch) as served:
        served.add(Repo("dataset", "lmms-lab-encoder/DocVQA", files))
        looked = hub.look(small(benchmarks=["docvqa", "infovqa"], models=[model], methods=[{"name": "none"}]))
    assert [(one.finding.what, one.data) for one in looked] == [
        ("data docvqa", len(docs)),
        ("data infovqa", len(graphics)),
    ]


def test_long_answers_need_memory_and_prompts_that_may_be_longer_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "shape_of", lambda model: SHAPE)
    SHAPE = replace(LLAVA["LLaVA-1.5-7B"], text=replace(LLAVA["LLaVA-1.5-7B"].text, kv_heads=8))

    def needed(*benchmarks: str) -> tuple[int, str]:
        found = only(here.gpu(small(benchmarks=[*benchmarks]), 80), "ok")["GPU memory: seven"].found
        return int(found.split()[1]), found

    short, told = needed("mmmu")
    assert "were each prompt 640 tokens long" in told
    assert short + 5 < needed("mmmu", "visualpuzzles")[0]


def test_rows_are_those_of_the_cuts() -> None:
    study = small(
        benchmarks=["vqav2", "flickr30k", "pope"],
        samples={"vqav2": 5000, "default": None},
        subsets={"flickr30k": "karpathy-test"},
        methods=[{"name": "none"}],
    )
    (found,) = estimates(study, Times.recorded())
    assert found.rows == 5000 + 1000 + BENCHMARKS["pope"].hub_rows


def test_all_of_the_papers_benchmarks_have_their_rows(paper: Study) -> None:
    assert sum(BENCHMARKS[name].rows(paper.cuts[name]) for name in paper.benchmarks) == 295_254


def test_without_a_network_it_says_what_is_missing(
    paper: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    looked = hub.look(small())
    assert [one.finding.state for one in looked] == ["fails"] * 3
    assert "HF_HUB_OFFLINE is set" in looked[0].finding.found
    assert all("fetch" in one.finding.cure for one in looked)


def test_each_thing_on_the_hub_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = make_benchmark(tmp_path, "pope", 12).read_bytes()
    files = {"README.md": card({"default": {"test": "data/test-*"}}), "data/test-0.parquet": rows}
    study = small(models=[{"name": "seven", "path": "org/tiny", "revision": COMMIT}])
    with playing(tmp_path, monkeypatch) as served:
        served.add(Repo("dataset", "lmms-lab-encoder/POPE", files))
        served.add(Repo("dataset", "lmms-lab-encoder/NoCaps", files, gated=True))
        served.add(Repo("model", "org/tiny", {"config.json": b"{}", "model.safetensors": bytes(3000)}))

        pope, nocaps, model = hub.look(study)

        assert not any(name.endswith((".parquet", ".safetensors")) for name in served.fetched)
    assert [one.finding.state for one in (pope, nocaps, model)] == ["note", "fails", "ok"]
    assert "licence cc-by-4.0" in pope.finding.found
    assert f"revisions: pope: {COMMIT}" in pope.finding.cure
    assert (pope.coming, pope.data) == (len(rows), len(rows))
    assert "is gated" in nocaps.finding.found
    assert "accept its conditions at" in nocaps.finding.cure
    assert (model.finding.what, model.coming, model.data) == ("model seven", 3002, 0)


def test_a_later_config_file_wins_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "mine.yaml").write_text("samples: 7\nresources: {gpu: 2}\n")
    study = preflight.read_study([str(PAPER), str(tmp_path / "mine.yaml")])
    assert study.typed.samples == 7
    assert study.typed.resources.gpu == 2
    assert study.typed.resources.mem_mb is not None


def test_a_table_has_each_cure_below() -> None:
    lines = [*table([Finding("ok", "Java", "java"), Finding("fails", "space: results", "none", "make room")])]
    assert lines == ["ok     Java            java", "fails  space: results  none", f"{'':23}-> make room"]


def test_the_exit_status_says_whether_anything_would_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    command = ["preflight", "--configfile", "config/paper.yaml", "--gpu-memory", "80"]
    for state, status in (("ok", 0), ("note", 0), ("fails", 1)):
        monkeypatch.setattr(
            preflight, "findings", lambda *given, state=state: [Finding(state, "a", "b", "c")]
        )
        assert main(command) == status
    assert "in all" in capsys.readouterr().out
    assert main([*command, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["findings"] == [{"state": "fails", "what": "a", "found": "b", "cure": "c"}]
    assert {"evaluation", "rows", "hours", "measured"} == {*document["evaluations"][0]}
