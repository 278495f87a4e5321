"""A study whose models and data come from the hub, played by a server here: fetched once, then shut off."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dyrate.study import Study, StudyError
from dyrate.study.fetches import fetches, records
from tests.evaluation.fake_hub import COMMIT, FakeHub, Repo, card, folder_files, serving
from tests.evaluation.stand_ins import make_benchmark, make_checkpoint

OTHER = "f" * 40
RESULT = Path("results/small/tiny/random-layer=1-rate=0.5/greedy.json")
CONFIG: dict[str, Any] = {
    "study": "small",
    "tasks": "hub",
    "samples": {"pope": 6, "default": None},
    "device": "cpu",
    "models": [{"name": "tiny", "path": "org/tiny", "revision": OTHER}],
    "methods": [{"name": "none"}, {"name": "random", "layer": 1, "rate": 0.5}],
    "benchmarks": ["pope"],
}


def pope(folder: Path, commit: str) -> Repo:
    rows = make_benchmark(folder, "pope", 12).read_bytes()
    files = {
        "README.md": card({"default": {"test": "data/test-*"}}),
        "data/test-00000-of-00001.parquet": rows,
    }
    return Repo("dataset", "lmms-lab-encoder/POPE", files, commit)


def test_each_thing_on_the_hub_is_fetched_by_a_job_of_its_own() -> None:
    system = {"name": "blip", "adapter": "instructblip", "arguments": {"pretrained": "org/blip"}}
    models = [*CONFIG["models"], system]
    study = Study.of(
        {**CONFIG, "models": models, "benchmarks": ["pope", "gqa"], "revisions": {"gqa": COMMIT}}
    )

    asked = {name: job.arguments() for name, job in fetches(study).items()}

    place = "results/small/fetched"

    def record(name: str) -> list[str]:
        return ["--output", f"{place}/{name}.json", "--failures", f"{place}/{name}.failures.txt"]

    assert asked == {
        "pope": ["--benchmark", "pope", *record("pope")],
        "gqa": ["--benchmark", "gqa", "--revision", COMMIT, *record("gqa")],
        "models/tiny": ["--model", "org/tiny", "--revision", OTHER, "--output", f"{place}/models/tiny.json"],
        "models/blip": ["--model", "org/blip", "--whole", "--output", f"{place}/models/blip.json"],
    }
    assert study.data_files == (f"{place}/pope.json", f"{place}/gqa.json")
    assert records(study, study.models[0]) == [f"{place}/models/tiny.json"]
    evaluation = study.evaluation(study.jobs[0])
    assert (str(evaluation.data), evaluation.revision) == (place, OTHER)


def test_nothing_is_fetched_for_a_study_on_local_files() -> None:
    local = {**CONFIG, "tasks": "testbed", "samples": 5, "models": [{"name": "tiny", "path": "org/tiny"}]}
    study = Study.of(local)
    assert fetches(study) == {}
    assert study.data_files == ("data/testbed/pope.parquet",)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"revisions": {"gqa": COMMIT}}, "revisions: 'gqa' is no benchmark of the study; known: pope"),
        (
            {"revisions": {"pope": "main"}},
            "'main' is no commit of 40 hexadecimal digits; branches and tags move",
        ),
        ({"samples": {"gqa": 5}}, "samples: 'gqa' is no benchmark of the study"),
        ({"subsets": {"pope": "half"}}, "subsets.pope: 'half' is no subset of it; known: all"),
        (
            {"tasks": "testbed", "revisions": {"pope": COMMIT}, "samples": 5},
            "revisions: are of data sets on the hub, and the study's tasks are 'testbed'",
        ),
        ({"tasks": "testbed", "samples": {"pope": None}}, "samples: null takes all, but the testbed draws"),
    ],
)
def test_what_is_said_of_benchmarks_must_be_of_the_studys(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudyError) as told:
        Study.of({**CONFIG, **change})
    assert complaint in str(told.value)


def test_the_testbed_draws_enough_for_the_benchmark_that_is_asked_most() -> None:
    samples = {"pope": 7, "default": 3}
    study = Study.of({**CONFIG, "tasks": "testbed", "samples": samples, "benchmarks": ["gqa", "pope"]})
    assert study.drawn == 7
    assert [cut.samples for cut in study.evaluation(study.jobs[0]).cuts] == [3, 7]


@pytest.mark.slow
def test_a_study_fetches_once_and_then_asks_for_nothing(
    project: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("hub")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(folder / "home"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        hub.add(pope(folder, COMMIT))
        hub.add(Repo("model", "org/tiny", folder_files(make_checkpoint(folder / "tiny")), OTHER))
        write(project, CONFIG)

        project.snakemake("--configfile", "small.yaml", "--", "fetch")
        hub.down = 500
        hub.asked.clear()
        project.snakemake("--configfile", "small.yaml")

        assert hub.asked == []
        assert revisions(project) == {"model": OTHER, "data": {"pope": COMMIT}}
        page = (project.folder / "reports/small/results.html").read_text()
        assert "n = 6" in page
        assert "Nothing to be done" in project.snakemake("--configfile", "small.yaml")
        rerun_with_another_commit(project, hub, folder)


def rerun_with_another_commit(project: Any, hub: FakeHub, folder: Path) -> None:
    another = "a" * 40
    hub.down = None
    hub.add(pope(folder, another))
    write(project, {**CONFIG, "revisions": {"pope": another}})
    # One evaluation shows it; that tables and pages follow their results is in test_workflow.py.
    project.snakemake("--configfile", "small.yaml", "--", str(RESULT))
    assert revisions(project) == {"model": OTHER, "data": {"pope": another}}


@pytest.mark.slow
def test_a_set_that_does_not_come_costs_its_own_cells_until_it_does(
    project: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("hub")
    mme = make_benchmark(folder, "mme", 4).read_bytes()
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(folder / "home"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        hub.add(pope(folder, COMMIT))
        hub.add(Repo("model", "org/tiny", folder_files(make_checkpoint(folder / "tiny")), OTHER))
        benchmarks = {"samples": 4, "benchmarks": ["mme", "pope"], "parts": {"pope": 2}, "batch_size": 2}
        write(project, {**CONFIG, **benchmarks})

        stopped = project.snakemake("--configfile", "small.yaml", status=1)
        before = sorted(path.name for path in (project.folder / "results/small").iterdir())
        alone = project.snakemake("--configfile", "small.yaml", "--", "fetch", status=1)
        asked = ("--configfile", "small.yaml", "--config", "preflight=warn")
        study = project.snakemake(*asked, status=1)

        reason = "data set lmms-lab-encoder/MME: is not there, or is private"
        assert "Nothing has been started. Mend it" in stopped
        assert "mme: is not there, or is private" in stopped
        assert before == ["logs"]
        assert reason in alone
        assert "pope" not in missing(project)
        assert reason in missing(project)["mme"]
        assert "Not complete." in (project.folder / "reports/small/index.html").read_text()
        assert (project.folder / "results/small/fetched/pope.json").stat().st_size > 0
        assert "greedy.partial.json" in {
            path.name for path in project.folder.rglob("results/small/tiny/none/*")
        }, study

        files = {"README.md": card({"default": {"test": "data/t-*"}}), "data/t-00000-of-00001.parquet": mme}
        hub.add(Repo("dataset", "lmms-lab-encoder/MME", files, COMMIT))
        project.snakemake(*asked)

        assert missing(project) == {}
        run = json.loads((project.folder / "results/small/tiny/none/greedy.run.json").read_text())
        assert (run["samples"], run["reused_samples"]) == (8, 4)
        logs = (project.folder / "results/small/tiny/none/greedy.parts").iterdir()
        assert sorted(path.name for path in logs) == ["pope.1-of-2.jsonl", "pope.2-of-2.jsonl"]
        assert "Nothing to be done" in project.snakemake(*asked)


def missing(project: Any) -> dict[str, str]:
    """By benchmark why the unpruned model has no score."""
    text = (project.folder / "results/small/tables/table1.csv").read_text()
    rows = csv.DictReader(text.splitlines())
    return {
        row["benchmark"]: row["missing"] for row in rows if row["missing"] and row["method"] == "Unpruned"
    }


def write(project: Any, config: dict[str, Any]) -> None:
    (project.folder / "small.yaml").write_text(yaml.safe_dump(config))


def revisions(project: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.folder / RESULT).read_text())["meta"]["revisions"]
    return found
