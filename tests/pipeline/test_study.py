from pathlib import Path

import pytest
import yaml

from dyrate.study import Study, StudyError

REPOSITORY = Path(__file__).parents[2]
CONFIG = {
    "study": "small",
    "models": [{"name": "a", "path": "models/a"}, {"name": "b", "path": "some/hub-id"}],
    "methods": [
        {"name": "none"},
        {"name": "fastv", "layer": 2, "rate": 0.5, "published": {"table1": "FastV"}},
        {"name": "vtw", "layer": 4, "models": ["a"]},
    ],
    "decodings": [{"name": "greedy"}, {"name": "beam-2"}],
    "benchmarks": ["gqa", "pope"],
}


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


def test_jobs_are_models_times_methods_times_decodings():
    results = [job.result for job in Study.of(CONFIG).jobs]

    assert len(results) == 10
    assert results[0] == "results/small/a/none/greedy.json"
    assert results[3] == "results/small/a/fastv-layer=2-rate=0.5/beam-2.json"
    assert not [path for path in results if "/b/vtw" in path]


def test_what_a_study_says_of_a_method_is_no_hyperparameter():
    assert Study.of(CONFIG).methods[1].spec == {"name": "fastv", "layer": 2, "rate": 0.5}


def test_a_baseline_has_the_same_model_and_decoding():
    study = Study.of(CONFIG)

    assert (
        study.baseline(study.job("b", "fastv-layer=2-rate=0.5", "beam-2"))
        == "results/small/b/none/beam-2.json"
    )
    assert study.baseline(study.job("b", "none", "beam-2")) is None


def test_arguments_say_everything_that_the_config_says():
    study = Study.of({**CONFIG, "samples": 7, "seed": 3, "device": "cpu", "batch_size": 4})

    line = " ".join(study.arguments(study.job("a", "vtw-layer=4", "greedy")))

    assert line == (
        "--benchmarks gqa pope --study small --model models/a --model-name a "
        '--method {"name": "vtw", "layer": 4} --decoding {"name": "greedy"} '
        "--tasks testbed --data data/testbed "
        "--samples 7 --batch-size 4 --device cpu --dtype float32 --seed 3 "
        "--baseline results/small/a/none/greedy.json --output results/small/a/vtw-layer=4"
    )


def test_all_samples_are_asked_for_by_no_limit():
    study = Study.of({**CONFIG, "samples": None})

    assert "--samples" not in study.arguments(study.jobs[0])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sampels": 3}, "x.yaml: sampels is no key of a study; did you mean 'samples'?"),
        ({"samples": "many"}, "x.yaml: samples: 'many' is not of type"),
        ({"benchmarks": ["gqa", "mmbench"]}, "x.yaml: benchmarks: 'mmbench' is unknown"),
        ({"benchmarks": ["pop"]}, "did you mean 'pope'?"),
        ({"methods": [{"name": "fastw"}]}, "did you mean 'fastv'?"),
        ({"methods": [{"name": "none", "models": ["c"]}]}, "'c' is no model of the study"),
        ({"methods": [{"name": "none"}, {"name": "none"}]}, "two jobs would write results/small/a/none"),
        ({"methods": [{"name": "no/such/file.py:Class"}]}, "there is no file no/such/file.py"),
        ({"models": [{"name": "a", "path": "x"}] * 2}, "models: 'a' is listed twice"),
        ({"models": [{"name": "a", "path": "x", "publishd": "y"}]}, "models.0.publishd is no key"),
        ({"tasks": "hubb"}, "tasks: 'hubb' is no folder and none of testbed, hub"),
        ({"decodings": [{"name": "greedy.run"}]}, "decodings.0.name"),
    ],
)
def test_a_mistake_is_refused_with_its_place(change, complaint):
    with pytest.raises(StudyError) as refused:
        Study.of({**CONFIG, **change}, "x.yaml")

    assert complaint in str(refused.value)


def test_every_mistake_is_named_at_once():
    with pytest.raises(StudyError) as refused:
        Study.of({**CONFIG, "sampels": 3, "dtype": "float8"}, "x.yaml")

    assert "sampels" in str(refused.value)
    assert "float8" in str(refused.value)


def test_a_wrong_hyperparameter_is_refused_before_a_job_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study.of({**CONFIG, "methods": [{"name": "fastv", "layr": 2}]})

    with pytest.raises(ValueError, match="layr"):
        study.check_methods()


@pytest.mark.parametrize("path", ["missing.yaml", "broken.yaml", "list.yaml"])
def test_a_file_that_holds_no_study_is_refused(tmp_path, path):
    (tmp_path / "broken.yaml").write_text("study: [")
    (tmp_path / "list.yaml").write_text("- study")

    with pytest.raises(StudyError, match=path):
        Study.read(tmp_path / path)


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("config/*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_hold(path):
    study = Study.read(path)

    for job in study.jobs:
        if job.method.name != "none":
            assert study.baseline(job)


def test_shipped_studies_pair_with_rows_that_the_paper_prints():
    from dyrate.report import published

    rows = {"table1": published.table1(), "table2": published.table2()}
    for path in REPOSITORY.glob("config/*.yaml"):
        for method in Study.read(path).methods:
            for table, name in method.published.items():
                assert name in {row.name for row in rows[table]}, f"{path}: {name}"


def test_resolved_config_reads_back(tmp_path):
    study = Study.of(CONFIG)
    (tmp_path / "study.json").write_text(study.to_json())

    again = Study.read(tmp_path / "study.json")

    assert again.jobs == study.jobs
    assert yaml.safe_load(study.to_json())["batch_size"] == 16


def test_a_model_is_known_by_its_content_not_by_its_times(tmp_path):
    from dyrate.study import Model

    def content(folder, weights):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(weights)
        return Model("a", str(tmp_path / folder)).content

    assert content("first", b"weights") == content("second", b"weights") != content("third", b"others")
    assert Model("a", "owner/name").content == "owner/name"
