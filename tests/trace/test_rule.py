"""What a study traces, and the rule that does."""

import re
from pathlib import Path

import pytest

from dyrate.study import Study, StudyError
from dyrate.trace import study_jobs as jobs
from tests.pipeline.conftest import REPOSITORY, Project

SETTINGS = {"benchmarks": ["nocaps", "gqa"], "samples": 4}


@pytest.fixture
def study() -> Study:
    smoke = Study.read(REPOSITORY / "config/smoke.yaml")
    return Study.of({**smoke.config, "trace": SETTINGS})


def test_a_study_that_asks_for_none_has_none() -> None:
    smoke = Study.read(REPOSITORY / "config/smoke.yaml")
    plain = Study.of({key: value for key, value in smoke.config.items() if key != "trace"})
    assert jobs.traced(plain) == {}
    assert jobs.summaries(plain) == []


def test_the_command_is_the_configs(study: Study) -> None:
    [model] = jobs.traced(study).values()
    arguments = jobs.job(study, model).arguments()
    assert arguments[:3] == ["--benchmarks", "nocaps", "gqa"]
    options = dict(zip(arguments[3::2], arguments[4::2], strict=True))
    assert options["--samples"] == "4"
    assert options["--model"] == "models/testbed-s"
    assert [options["--output"]] == jobs.summaries(study) == ["results/smoke/trace/testbed-s.json"]
    assert jobs.data_files(study) == ("data/smoke/nocaps.parquet", "data/smoke/gqa.parquet")


def test_captions_and_questions_are_the_default(study: Study) -> None:
    named = Study.of({**study.config, "trace": {"samples": 4}})
    assert jobs.benchmarks(named) == (
        "gqa",
        "vizwiz",
        "sqa",
        "vqav2",
        "textvqa",
        "nocaps",
        "flickr30k",
        "coco2017",
    )


def test_a_benchmark_that_the_study_does_not_have_is_refused(study: Study) -> None:
    fewer = Study.of({**study.config, "benchmarks": ["gqa", "pope"]})
    with pytest.raises(
        StudyError, match=r"trace.benchmarks: 'nocaps' is none of the study's benchmarks: gqa, pope"
    ):
        jobs.traced(fewer)


@pytest.mark.slow
def test_snakemake_plans_one_trace_per_model(tmp_path: Path, warm: Path) -> None:
    project = Project.copied_from(REPOSITORY, tmp_path, warm)
    settings = "\ntrace: {benchmarks: [nocaps, gqa], samples: 4}\n"
    config = (tmp_path / "config/smoke.yaml").read_text()
    (tmp_path / "config/smoke.yaml").write_text(re.sub(r"\ntrace:.*\n", "\n", config) + settings)
    # Weights are not copied: a folder is enough to plan with.
    (tmp_path / "models/testbed-s").mkdir(parents=True)

    wanted = "results/smoke/trace/testbed-s.json"
    output = project.snakemake("-n", wanted, "--configfile", "config/smoke.yaml")

    assert re.search(r"^trace\s+1$", output, re.MULTILINE)
    assert re.search(r"^build_benchmarks\s+1$", output, re.MULTILINE)
    assert "dyrate.cli trace --benchmarks nocaps gqa --study smoke --model models/testbed-s" in output
