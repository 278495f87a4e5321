"""The modern study's rules offline: benchmarks in the hub's columns, a tiny model of a family, its tables."""

import csv
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText

from dyrate.bench.shapes import named
from dyrate.evaluation.results import read
from dyrate.registry import load_method
from dyrate.study import Study
from tests.evaluation.family_checkpoints import family_checkpoint
from tests.evaluation.stand_ins import HUB_COLUMNS, make_benchmark, save_task
from tests.pipeline.conftest import REPOSITORY, Project

NAMES = tuple(HUB_COLUMNS)
RESULT = "results/modern/tiny/fastv-layer=1-rate=0.5/greedy.json"


def stand_ins(project: Project) -> None:
    family_checkpoint("qwen2_5_vl", project.folder / "models/tiny")
    (project.folder / "tasks").mkdir()
    for name in NAMES:
        make_benchmark(project.folder / "tasks", name, 8)
        save_task(project.folder / "tasks", name, new_tokens=4)
    config = {
        "tasks": "tasks",
        "samples": None,
        "subsets": {"flickr30k": "all"},
        "device": "cpu",
        "dtype": "float32",
        "resources": {"gpu": 0},
        "models": [{"name": "tiny", "path": "models/tiny", "pixels": [64, 1024]}],
        "methods": [{"name": "none"}, {"name": "fastv", "layer": 1, "rate": 0.5}],
        "predictors": [],
        "benchmarks": list(NAMES),
        "rank_at": [],
    }
    (project.folder / "stand-ins.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("model", ["qwen2.5-vl-7b", "qwen3-vl-8b", "internvl3.5-8b", "llava-onevision-7b"])
def test_each_method_runs_on_each_model_at_its_real_shape(model: str) -> None:
    with torch.device("meta"):
        real = AutoModelForImageTextToText.from_config(named(model))
    for job in Study.read(REPOSITORY / "config/modern.yaml").jobs:
        if job.model.name == model and "predictor" not in job.method.spec:
            with load_method(job.method.spec)(real):  # which refuses a depth, a tower, a budget
                pass
            keeps_none = job.method.name in ("vtw", "text_only")
            positions = load_method(job.method.spec)(real).needs.positions
            assert positions == "original" or keeps_none or not model.startswith("qwen"), job.method.spec


@pytest.mark.slow
def test_rows_of_all_benchmarks_are_scored_and_one_that_is_odd_costs_its_own(project: Project) -> None:
    stand_ins(project)
    table = parquet.read_table(project.folder / "tasks/mmstar.parquet")
    rows = table.to_pylist()
    rows[3]["answer"] = "E"
    parquet.write_table(type(table).from_pylist(rows, table.schema), project.folder / "tasks/mmstar.parquet")

    output = project.snakemake("--configfile", "config/modern.yaml", "stand-ins.yaml", status=1)

    assert "row 3, column 'answer': 'E'; it should be one of A, B, C, D" in output
    found = read(Path(project.folder / RESULT).with_name("greedy.partial.json"))["benchmarks"]
    assert set(found) == {*NAMES} - {"mmstar"}
    assert all(one["visual_tokens"]["total"] <= 16 for name, one in found.items() if name != "mmmu")
    assert {one["samples"] for one in found.values()} == {8}
    lines = [*csv.DictReader((project.folder / "results/modern/tables/table1.csv").read_text().splitlines())]
    assert {line["benchmark"] for line in lines if line["value"]} == {*NAMES} - {"mmstar"}
    assert not any(line["published"] for line in lines)
    assert "audit.html" not in (project.folder / "reports/modern/index.html").read_text()
