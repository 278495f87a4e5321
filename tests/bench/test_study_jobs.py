"""What a study times, and the rule that does."""

import json
import re
from pathlib import Path

import pytest

from dyrate.bench import study_jobs as jobs
from dyrate.study import Study, StudyError
from tests.pipeline.conftest import REPOSITORY, Project

SETTINGS = {"benchmark": "nocaps", "new_tokens": 7, "rounds": 2}


@pytest.fixture
def study() -> Study:
    return Study.of({**Study.read(REPOSITORY / "config/testbed.yaml").config, "latency": SETTINGS})


def test_a_study_that_asks_for_none_has_none(study: Study) -> None:
    plain = Study.of({key: value for key, value in study.config.items() if key != "latency"})
    assert jobs.timed(plain) == {}
    assert jobs.documents(plain) == []


def test_rows_with_a_printed_one_or_a_predictor_are_timed(study: Study) -> None:
    slugs = [job.method.slug for job in jobs.timed(study)["testbed-s"]]
    assert slugs == [
        "none",
        "fastv-layer=3-rate=0.5",
        "fastv-layer=2-rate=0.5",
        "vtw-layer=4",
        "dyrate-layer=2-predictor=plus-0.4",
        "dyrate-layer=2-predictor=paper-0.4",
    ]


def test_the_command_is_the_configs(study: Study) -> None:
    timed = jobs.timed(study)["testbed-m"]
    arguments = jobs.job(study, timed[0].model, timed).arguments()
    specs = arguments[arguments.index("--methods") + 1 : arguments.index("--model")]
    assert [json.loads(spec) for spec in specs] == [job.spec for job in timed]
    rest = arguments[arguments.index("--model") :]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    assert options["--benchmark"] == "nocaps"
    assert options["--new-tokens"] == "7"
    assert options["--rounds"] == "2"
    assert options["--engine"] in ("transformers", "graph")
    assert options["--output"] == "results/testbed/latency/testbed-m.json"
    assert jobs.data_files(study) == ("data/testbed/nocaps.parquet",)


def test_a_benchmark_that_the_study_does_not_have_is_refused(study: Study) -> None:
    other = Study.of({**study.config, "latency": {"benchmark": "coco2014"}})
    with pytest.raises(StudyError, match=r"latency.benchmark: 'coco2014' is none of the study's benchmarks"):
        jobs.timed(other)


@pytest.mark.slow
def test_snakemake_gives_one_job_per_model_all_cores(tmp_path: Path, warm: Path) -> None:
    project = Project.copied_from(REPOSITORY, tmp_path, warm)
    # Weights are not copied: a folder is enough to plan with.
    (tmp_path / "models/testbed-s").mkdir(parents=True)

    wanted = "results/smoke/latency/testbed-s.json"
    output = project.snakemake("-n", wanted, "--configfile", "config/smoke.yaml")

    assert re.search(r"^latency\s+1$", output, re.MULTILINE)
    assert "dyrate.cli bench --peers --methods" in output
    assert "--benchmark nocaps" in output
