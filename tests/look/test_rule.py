"""What a study looks at again, and the rule that does."""

import re
from pathlib import Path

import pytest

from dyrate.look import study_jobs as jobs
from dyrate.study import Study, StudyError
from tests.pipeline.conftest import REPOSITORY, Project

SETTINGS = {"benchmarks": ["nocaps", "gqa"], "samples": 4, "methods": ["fastv", "random"]}


@pytest.fixture
def study() -> Study:
    smoke = Study.read(REPOSITORY / "config/smoke.yaml")
    return Study.of({**smoke.config, "survival": SETTINGS})


def test_a_study_that_asks_for_none_has_none() -> None:
    smoke = Study.read(REPOSITORY / "config/smoke.yaml")
    assert jobs.survivals(smoke) == {}
    assert jobs.page(smoke) == []


def test_the_command_is_the_configs(study: Study) -> None:
    [(model, chosen)] = jobs.survivals(study).items()
    assert [job.method.name for job in chosen] == ["none", "fastv", "random"]
    arguments = jobs.job(study, study.models[0], chosen).arguments()
    assert arguments[:3] == ["--benchmarks", "nocaps", "gqa"]
    text = " ".join(arguments)
    assert "--shown 4" in text
    assert "--samples 6" in text, "the rows are those that were evaluated"
    assert f"--results {' '.join(job.result for job in chosen)}" in text
    assert arguments[-2:] == ["--output", jobs.record(study, model)]
    assert jobs.page(study) == ["reports/smoke/survival.html"]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"methods": ["fastw"]}, "survival.methods: 'fastw' is none of the study's; did you mean 'fastv'"),
        ({"methods": ["none"]}, "survival.methods: 'none' is none of the study's"),
        ({"benchmarks": ["gqua"]}, "survival.benchmarks: 'gqua' is none of the study's"),
    ],
)
def test_what_the_study_does_not_have_is_refused(study: Study, change: dict, refusal: str) -> None:
    with pytest.raises(StudyError, match=refusal):
        jobs.survivals(Study.of({**study.config, "survival": {**SETTINGS, **change}}))


def test_the_testbed_shows_both_models_under_their_first_dyrate() -> None:
    found = jobs.survivals(Study.read(REPOSITORY / "config/testbed.yaml"))
    assert {model: chosen[1].predictor.name for model, chosen in found.items() if chosen[1].predictor} == {
        "testbed-s": "plus-0.4",
        "testbed-m": "plus-1",
    }
    assert {job.method.name for chosen in found.values() for job in chosen} == {
        "none",
        "dyrate",
        "fastv",
        "visionzip",
    }


@pytest.mark.slow
def test_snakemake_plans_a_record_per_model_and_one_page(tmp_path: Path, warm: Path) -> None:
    project = Project.copied_from(REPOSITORY, tmp_path, warm)
    settings = "\nsurvival: {benchmarks: [nocaps, gqa], samples: 4, methods: [fastv]}\n"
    config = tmp_path / "config/smoke.yaml"
    config.write_text(config.read_text("utf-8") + settings, "utf-8")
    # Weights are not copied: a folder is enough to plan with.
    (tmp_path / "models/testbed-s").mkdir(parents=True)

    output = project.snakemake("-n", "reports/smoke/survival.html", "--configfile", "config/smoke.yaml")

    assert re.search(r"^survival\s+1$", output, re.MULTILINE)
    assert re.search(r"^survival_page\s+1$", output, re.MULTILINE)
    assert not re.search(r"^(report|tables)\s", output, re.MULTILINE), "the page needs no other"
    report = project.snakemake("-n", "reports/smoke/index.html", "--configfile", "config/smoke.yaml")
    assert not re.search(r"^survival", report, re.MULTILINE), "a job that fails would cost the report"
    assert "dyrate.cli survival --benchmarks nocaps gqa --study smoke --model models/testbed-s" in output
