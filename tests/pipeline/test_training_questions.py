"""What a study's predictors train on: a rule makes it, a file of one's own wins. Groups are left out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dyrate.files import digest
from dyrate.study import Study, StudyError
from dyrate.study.fit import check_jobs
from tests.pipeline.conftest import Project
from tests.training_questions.cauldron import encoded, row, save, scenes

MADE = "data/small/train.jsonl"
CONFIG: dict[str, Any] = {
    "study": "small",
    "tasks": "hub",
    "models": [{"name": "a", "path": "some/hub-id"}],
    "training": MADE,
    "predictors": [{"name": "p"}, {"name": "own", "data": "own.jsonl"}],
    "methods": [{"name": "none"}, {"name": "dyrate", "predictor": "p", "layer": 2}],
    "benchmarks": ["gqa", "nocaps"],
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str, text: str = "{}\n") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_rule_makes_the_file_that_some_training_reads() -> None:
    study = Study.of(CONFIG)

    assert study.questions == MADE
    assert [entry.data for entry in study.predictors] == [MADE, "own.jsonl"]
    assert study.asked_questions(MADE).command() == (
        "dyrate training-questions --source HuggingFaceM4/the_cauldron --rows 4096 --seed 0 "
        f"--benchmarks gqa nocaps --tasks hub --data results/small/fetched --output {MADE}"
    )
    unread = {**CONFIG, "methods": [{"name": "none"}, {"name": "dyrate", "predictor": "own", "layer": 2}]}
    assert Study.of(unread).questions is None
    assert Study.of({key: value for key, value in CONFIG.items() if key != "training"}).questions is None


def test_a_file_of_the_users_own_wins() -> None:
    write(MADE)
    assert Study.of(CONFIG).questions is None, "there is no record of it"

    write("data/small/train.made.json", json.dumps({"sha256": digest(b"{}\n")}))
    assert Study.of(CONFIG).questions == MADE
    write(MADE, "{}\n{}\n")
    assert Study.of(CONFIG).questions is None, "it is another one than was made"

    study = Study.of({**CONFIG, "training": "mine.jsonl"})
    assert study.questions is None
    assert study.training("a", "p").data == "mine.jsonl"


def test_a_name_without_a_file_is_refused_before_a_job_runs() -> None:
    study = Study.of({**CONFIG, "training": "mine.jsonl"})
    with pytest.raises(StudyError, match=r"training: there is no file mine.jsonl .*any other file is yours"):
        check_jobs(study)

    write("mine.jsonl")
    check_jobs(study)
    check_jobs(Study.of(CONFIG))


WITHOUT: dict[str, Any] = {
    **CONFIG,
    "models": [*CONFIG["models"], {"name": "blip", "adapter": "instructblip"}],
    "methods": [
        *CONFIG["methods"],
        {"name": "fastv", "layer": 2, "rate": 0.9, "group": "budget"},
        {"name": "fastv", "layer": 2, "budget": 0.5, "group": "methods"},
    ],
}


@pytest.mark.parametrize(
    ("without", "jobs"),
    [
        ([], 5),
        ("systems", 4),
        (["systems", "methods"], 3),
        ("systems, budget,methods", 2),
    ],
)
def test_groups_are_left_out_by_name(without: Any, jobs: int) -> None:
    study = Study.of({**WITHOUT, "without": without})

    assert len(study.jobs) == jobs
    assert len(Study.of(json.loads(study.to_json())).jobs) == jobs, "so the report sees what was run"


@pytest.mark.parametrize(
    ("without", "complaint"),
    [
        ("sistems", "without.0: 'sistems' is not one of main, "),
        (["methods", "methods"], "without: 'methods' is given twice"),
        ("main", "differences are taken from the unpruned model"),
    ],
)
def test_what_cannot_be_left_out_is_refused(without: Any, complaint: str) -> None:
    with pytest.raises(StudyError) as refused:
        Study.of({**WITHOUT, "without": without})

    assert complaint in str(refused.value)


@pytest.mark.slow
def test_the_rule_makes_it_once_and_leaves_the_users_alone(project: Project) -> None:
    subsets = {
        name: [row(encoded(image)) for image in scenes(8, seed)]
        for seed, name in enumerate(("vqav2", "textcaps"))
    }
    save(project.folder / "source", subsets)
    project.edit(
        "workflow/rules/training_questions.smk",
        "{params.arguments:q}",
        "{params.arguments:q} --source source --rows 6",
    )
    config = {**CONFIG, "tasks": "testbed", "samples": 4, "data": "data/tiny"}
    (project.folder / "small.yaml").write_text(yaml.safe_dump(config))
    asked = MADE, "--configfile", "small.yaml"

    first = project.snakemake(*asked)

    assert "Training questions without the images of 2 benchmarks" in first
    lines = (project.folder / MADE).read_text().splitlines()
    assert len(lines) == 6
    assert all((project.folder / "data/small" / json.loads(line)["image"]).is_file() for line in lines)
    record = json.loads((project.folder / "data/small/train.made.json").read_text())
    assert record["sha256"] == digest((project.folder / MADE).read_bytes())
    planned = project.snakemake("-n", "--configfile", "small.yaml")
    assert "training_questions" not in planned, "it is there"
    assert "train_predictor" in planned

    (project.folder / MADE).write_text(lines[0] + "\n")
    planned = project.snakemake("-n", "--forceall", "--configfile", "small.yaml")
    assert "training_questions" not in planned, "it is the user's now"
    assert "train_predictor" in planned
