"""Models that are measured against another one: connectors beside the projector that was trained likewise."""

import csv
import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from dyrate.analysis.measurement import Measurement
from dyrate.analysis.measurements import load
from dyrate.analysis.paired import Answers
from dyrate.analysis.pareto import curves
from dyrate.analysis.ranking import GROUPS, rankings
from dyrate.analysis.summary import lines
from dyrate.analysis.tables import table1
from dyrate.evaluation import answers
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import csv_files
from dyrate.report.page import report_pages
from dyrate.study import Study, StudyError
from tests.report import fake

CONFIG: dict[str, Any] = {
    "study": "small",
    "models": [
        {"name": "whole", "path": "a"},
        {"name": "deep-16", "path": "b", "against": "whole", "published": "M3 (7B)"},
        {"name": "deep-4", "path": "c", "against": "whole"},
        {
            "name": "packed",
            "path": "d",
            "against": "whole",
            "published": ["Qwen-VL (7B)", "TokenPacker (7B)"],
        },
    ],
    "methods": [
        {"name": "none"},
        {"name": "fastv", "layer": 2, "rate": 0.5, "models": ["whole"], "group": "methods"},
        {"name": "fastv", "layer": 2, "rate": 0.5, "models": ["deep-16"]},
    ],
    "benchmarks": ["gqa", "vizwiz"],
    "rank_at": [0.3],
}
# Of 40 answers so many are right, and of 64 visual tokens so many are there and seen by a layer, on the mean.
RIGHT = {
    "whole none": (40, 64, 64), "whole fastv": (20, 64, 19.2), "deep-16 none": (30, 16, 16),
    "deep-16 fastv": (28, 16, 10), "deep-4 none": (10, 4, 4), "packed none": (36, 20, 20),
}  # fmt: skip
WEIGHTS = {"deep-16": "0", "deep-4": "0", "packed": "1"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study.of(CONFIG)
    with chdir(tmp_path):
        fake.write_study(study, tmp_path, images=False)
        for job in study.jobs:
            right, total, seen = RIGHT[f"{job.model.name} {job.method.name}"]
            path = tmp_path / job.result
            result = json.loads(path.read_text())
            if weights := WEIGHTS.get(job.model.name):
                result["meta"]["connector"] = {"name": "x", "fields": {}, "base": "b", "sha256": weights}
            samples = {}
            for name, found in result["benchmarks"].items():
                found["visual_tokens"] = {"total": total, "prefill": [seen] * 4, "decode": None}
                kind = BENCHMARKS[name].kind
                samples[name] = [
                    answers.Sample(i, str(i), "", "q", "a", ["a"], fake.sample_scores(kind, i < right))
                    for i in range(40)
                ]
            path.write_text(json.dumps(result))
            answers.write(path.with_name("greedy.answers.parquet"), samples)
    return study


@pytest.fixture
def measurements(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Measurement, ...]:
    monkeypatch.chdir(tmp_path)
    return load(study)


def test_they_are_compared_with_the_other_models_answers(
    study: Study, measurements: tuple[Measurement, ...]
) -> None:
    assert {job.result for one in study.jobs if (job := study.unpruned(one))} == {
        "results/small/whole/none/greedy.json"
    }
    for m in measurements:
        for benchmark in m.result["benchmarks"].values():
            benchmark["difference"] = None
        m.result["meta"].setdefault("hashes", {})["weights"] = m.model
    Answers(0).compare(measurements)
    found = {
        f"{m.model} {m.method}": m.result["benchmarks"]["gqa"]["difference"]
        for m in measurements
        if m.group == "main"
    }
    assert found.pop("whole none") is None
    assert {name: one["exact_match"]["value"] for name, one in found.items() if one} == {
        "deep-16 none": pytest.approx(-25),
        "deep-16 fastv": pytest.approx(-30),
        "deep-4 none": pytest.approx(-75),
        "packed none": pytest.approx(-10),
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"against": "whale"},
            "against: 'whale' is no model of the study that stands by itself; did you mean",
        ),
        ({"against": "deep-16"}, "against: 'deep-16' is no model of the study that stands by itself"),
        ({"published": "M3"}, "models: deep-4: published: 'M3' is no row of Table I"),
        ({"published": ["M3 (7B)", "M3 (7B)"]}, r"published: 'M3 \(7B\)' is given twice"),
    ],
)
def test_what_they_cannot_be_measured_against(change: dict[str, Any], complaint: str) -> None:
    models = [{**model, **change} if model["name"] == "deep-4" else model for model in CONFIG["models"]]
    with pytest.raises(StudyError, match=complaint):
        Study.of({**CONFIG, "models": models}, "x.yaml")


def test_a_budget_is_a_share_of_the_other_models_tokens(measurements: tuple[Measurement, ...]) -> None:
    whole = measurements[0]
    assert {m.unpruned for m in measurements} == {whole}
    found = {line.measurement.title: line.budget.prefill for line in lines(measurements, ["gqa"])["whole"]}
    assert found == {
        "FastV (K=2, R=0.5)": 0.3,
        "deep-16 (trained here)": 0.25,
        "FastV (K=2, R=0.5) on deep-16 (trained here)": 10 / 64,
        "deep-4 (trained here)": 4 / 64,
        "packed (trained here)": 20 / 64,
    }


def test_one_ranking_has_them_and_the_methods(measurements: tuple[Measurement, ...]) -> None:
    (ranking,) = rankings(measurements, (0.3,), Answers(0))
    kept = {place.name: place.kept["value"] for place in ranking.places}

    assert ranking.model == "whole"
    assert kept["packed (trained here)"] == pytest.approx(90), "it spends little more, and stands for itself"
    assert kept["FastV (K=2, R=0.5)"] == pytest.approx(50)
    # Its scales are one curve: 0.3 lies between 0.25 and the whole model's 1.
    mixed = next(value for name, value in kept.items() if name.startswith("deep-16"))
    assert mixed == pytest.approx((30 + 10 * 0.05 / 0.75) / 0.4)
    assert not any(name.startswith("deep-4") for name in kept)


def test_they_are_not_compared_in_another_dtype(measurements: tuple[Measurement, ...]) -> None:
    (packed,) = (m for m in measurements if m.model == "packed")
    packed.result["meta"]["dtype"] = "bfloat16"
    for one in packed.result["benchmarks"].values():
        one["difference"] = None
    Answers(0).compare(measurements)
    assert packed.uncompared["gqa"] == "it ran in bfloat16, the unpruned model in float32"
    assert packed.result["benchmarks"]["gqa"]["difference"] is None


def test_one_picture_has_them_and_the_methods(measurements: tuple[Measurement, ...]) -> None:
    drawn = curves("whole", measurements, "gqa", GROUPS)
    assert {label: [share for share, _ in curve] for label, curve in drawn.items()} == {
        "FastV (K=2, R=0.5)": [pytest.approx(0.3), 1.0],
        "FastV (K=2, R=0.5) on deep-16": [10 / 64],
        "deep-16 (trained here)": [4 / 64, 16 / 64],
        "packed (trained here)": [20 / 64],
    }


def test_they_stand_beside_the_rows_whose_idea_they_are(
    study: Study, measurements: tuple[Measurement, ...], tmp_path: Path
) -> None:
    table = table1(study, measurements)
    beside = {
        row.printed.title: row.measurement.title for row in table.rows if row.printed and row.measurement
    }
    assert beside == {
        "M3 (7B)": "deep-16 (trained here)",
        "Qwen-VL (7B)": "packed (trained here)",
        "TokenPacker (7B)": "packed (trained here)",
    }
    page = report_pages(study, measurements)["results.html"]
    assert "packed (trained here)" in page
    csv_files.write(csv_files.of_table(table), tmp_path / "table1.csv")
    with (tmp_path / "table1.csv").open(encoding="utf-8") as file:
        methods = {line["published_row"]: line["method"] for line in csv.DictReader(file) if line["value"]}
    assert methods["M3"] == "deep-16 (trained here)"
