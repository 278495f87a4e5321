import math
import os
from datetime import date
from pathlib import Path

import pytest
import yaml

from dyrate.errors import DyrateError
from dyrate.study import Study, StudyError, read_config
from dyrate.study.fit import check_jobs

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


def job(study, *key):
    return {job.key: job for job in study.jobs}[key]


def nested(value, depth):
    for _ in range(depth):
        value = [value]
    return value


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


def test_the_unpruned_job_has_the_same_model_and_decoding():
    study = Study.of(CONFIG)
    whole = job(study, "b", "none", "beam-2")

    assert study.unpruned(job(study, "b", "fastv-layer=2-rate=0.5", "beam-2")) is whole
    assert study.unpruned(whole) is whole


def test_arguments_say_everything_that_the_config_says():
    study = Study.of({**CONFIG, "samples": 7, "seed": 3, "device": "cpu", "batch_size": 4})

    line = " ".join(study.evaluation(job(study, "a", "vtw-layer=4", "greedy")).arguments())

    assert line == (
        "--benchmarks gqa pope --study small --model models/a --model-name a "
        '--method {"name": "vtw", "layer": 4} --decoding {"name": "greedy"} '
        "--tasks testbed --data data/testbed "
        "--samples 7 --batch-size 4 --device cpu --dtype auto --engine auto --seed 3 "
        "--output results/small/a/vtw-layer=4"
    )


def test_all_samples_are_asked_for_by_no_limit():
    study = Study.of({**CONFIG, "samples": None, "tasks": "hub"})

    assert "--samples" not in study.evaluation(study.jobs[0]).arguments()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sampels": 3}, "x.yaml: sampels is unknown; did you mean 'samples'?"),
        ({"samples": "many"}, "x.yaml: samples: 'many' is not a whole number"),
        ({"benchmarks": ["gqa", "mmbench"]}, "x.yaml: benchmarks: 'mmbench' is unknown"),
        ({"benchmarks": ["pop"]}, "did you mean 'pope'?"),
        ({"methods": [{"name": "fastw"}]}, "did you mean 'fastv'?"),
        ({"methods": [{"name": "none", "models": ["c"]}]}, "'c' is no model of the study"),
        ({"methods": [{"name": "none"}, {"name": "none"}]}, "two jobs would write results/small/a/none"),
        ({"methods": [{"name": "no/such/file.py:Class"}]}, "there is no file no/such/file.py"),
        ({"models": [{"name": "a", "path": "x"}] * 2}, "models: 'a' is listed twice"),
        (
            {"models": [{"name": "a", "path": "x", "publishd": "y"}]},
            "models.0.publishd is unknown; did you mean 'published'?",
        ),
        ({"models": [{"name": "a", "path": "x", "published": None}]}, "models.0.published: null is no value"),
        ({"trace": None}, "trace: null is no value; leave the key out"),
        ({"resources": {"gpus": 1}}, "resources.gpus is unknown; did you mean 'gpu'?"),
        ({"resources": [1]}, "resources: [1] is not a mapping"),
        ({"methods": [{"name": "none", "published": {"tabel1": "x"}}]}, "did you mean 'table1'?"),
        ({"dtype": "float8"}, "dtype: 'float8' is not one of auto, float32, float16, bfloat16; did you mean"),
        ({"latency": {"rounds": 2}}, "latency.benchmark is missing"),
        (
            {"latency": {"benchmark": "gqa", "round": 2}},
            "latency.round is unknown; did you mean 'rounds'?",
        ),
        ({"trace": {"sample": 2}}, "trace.sample is unknown; did you mean 'samples'?"),
        ({"latency": {"benchmark": "gqa", "new_tokens": 1}}, "latency.new_tokens: 1 is not a whole number"),
        ({"benchmarks": ["gqa", "gqa"]}, "benchmarks: 'gqa' is given twice"),
        ({"benchmarks": "gqa"}, "benchmarks: 'gqa' is not a list"),
        ({"benchmarks": []}, "benchmarks: nothing is given"),
        ({"external": ["theirs.txt"]}, "external.0: 'theirs.txt' does not match"),
        ({"tasks": "hubb"}, "tasks: 'hubb' is no folder and none of testbed, hub"),
        ({"decodings": [{"name": "greedy.run"}]}, "decodings.0.name"),
        (
            {"decodings": [{"name": "beamm-2"}]},
            "x.yaml: decodings: unknown decoding 'beamm-2'; known: greedy",
        ),
        ({"decodings": [{"name": "top_p", "top_p": 7}]}, "decoding top_p: top_p: 7 is not at most 1.0"),
        ({"samples": None}, "x.yaml: samples: null takes all, but the testbed draws"),
        ({"methods": [{"name": "fastv", "layer": 2}]}, "x.yaml: methods: no 'none' on 'a'"),
        ({"methods": [{"name": "none", "models": ["a"]}, {"name": "vtw"}]}, "methods: no 'none' on 'b'"),
        (
            {"methods": [{"name": "none", "published": {"table1": "FastVV"}}]},
            "x.yaml: methods: none: published.table1: 'FastVV' is no row of it; did you mean 'FastV'?",
        ),
        ({"methods": [{"name": "none", "published": {"table2": "Orignal"}}]}, "did you mean 'Original'?"),
        (
            {"models": [{"name": "a", "path": "x", "published": "LLaVA-1.5-7b"}]},
            "models: a: published: 'LLaVA-1.5-7b' is no model of the paper's; did you mean 'LLaVA-1.5-7B'?",
        ),
        ({"samples": 2.0}, "samples: 2.0 is not a whole number"),
        ({"samples": True}, "samples: True is not a whole number"),
        ({"seed": 2**64}, "seed: 18446744073709551616 is not at most 9223372036854775807"),
        ({"data": ""}, "data: nothing is given"),
        ({"tasks": " "}, "tasks: nothing is given"),
        ({"study": "small\n"}, "study: 'small\\n' has line breaks"),
        ({"device": "cpu\n"}, "device: 'cpu\\n' has line breaks"),
        ({"study": ".."}, "study: '..' does not match"),
        ({"study": "x" * 101}, "is too long"),
        ({"study": "h200"}, "study: 'h200' is taken: results/h200 holds times measured on a GPU"),
        ({"study": "README.md"}, "study: 'README.md' is taken: results/README.md is a file"),
        ({"models": [{"name": "tables", "path": "x"}]}, "models: 'tables' is what the study's folder has"),
        (
            {"models": [{"name": "study.json", "path": "x"}]},
            "models: 'study.json' is what the study's folder has",
        ),
        (
            {"models": [{"name": "a", "path": "x/y"}, {"name": "b", "path": "x//y/"}]},
            "models: 'b' has the path of 'a'",
        ),
        ({"models": [{"name": "a", "path": f"x/{'y' * 256}"}]}, "is too long to be the name of anything"),
        ({"external": ["./results/small/a/none/greedy.json"]}, "is a result of this study's own"),
        ({"device": "cpu", "resources": {"gpu": 1}}, "resources.gpu: the device is the CPU"),
        (
            {"methods": [{"name": "none"}, {"name": "fastv", "rate": 1}, {"name": "fastv", "rate": 1.0}]},
            "two jobs would write results/small/a/fastv-rate=1/greedy.json",
        ),
        (
            {"methods": [{"name": "none"}, {"name": "fastv", "rate": math.nan}]},
            "methods.1.rate: nan is no number",
        ),
        ({"methods": [{"name": "none"}, {"name": "vtw", 2: 3}]}, "methods.1: 2 is no key: keys are text"),
        ({"data": date(2024, 1, 1)}, "data: YAML reads '2024-01-01' as a date: write it in quotes"),
        ({"samples": nested([], 5000)}, "nested too deeply"),
        ({"models": [[[[[[0] * 20] * 20] * 20] * 20] * 20]}, "the config has more than 100000 values"),
        ({"decodings": [{"name": "top_p"}, {"name": "top_p", "top_p": 0.9}]}, "two jobs would write"),
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
    study = Study.of({**CONFIG, "methods": [{"name": "none"}, {"name": "fastv", "layr": 2}]})

    with pytest.raises(ValueError, match="layr"):
        check_jobs(study)


PREDICTOR = {"name": "p", "layer": 2, "steps": 1}


@pytest.mark.parametrize(
    ("method", "predictor", "complaint"),
    [
        ({"name": "fastv", "layer": 99}, PREDICTOR, "there is no layer 99; the model has layers 0..7"),
        ({"name": "uniform", "layer": 8}, PREDICTOR, "there is no layer 8; the model has layers 0..7"),
        ({"name": "fastv", "layer": 2.0}, PREDICTOR, "FastV(layer=2.0): expected a value of type int"),
        ({"name": "dyrate", "layer": 3, "predictor": "p"}, PREDICTOR, "was made for layer=2"),
        (
            {"name": "dyrate", "layer": 9, "predictor": "p"},
            {**PREDICTOR, "layer": 9},
            "its predictor is made for layer 9; the model has layers 0..7",
        ),
        (
            {"name": "dyrate", "layer": 2, "predictor": "p", "mode": "evict"},
            {**PREDICTOR, "lagged": [3]},
            "must see every token held",
        ),
        ({"name": "dyrate", "layer": 2}, PREDICTOR, "in a study, the name of an entry of its `predictors`"),
        ({"name": "fastv", "layer": 2}, PREDICTOR, "fastv and fastv-layer=2 are one method on a"),
        (
            {"name": "vtw", "layer": 4},
            {**PREDICTOR, "stepss": 1},
            "p: stepss is unknown; did you mean 'steps'?",
        ),
        ({"name": "vtw", "layer": 4}, {**PREDICTOR, "learning_rate": 10**99}, "p: learning_rate: 1000"),
    ],
)
def test_what_a_job_would_refuse_is_refused_before_one_runs(method, predictor, complaint):
    methods = [{"name": "none"}, {"name": "fastv"}, method]
    models = [{"name": "a", "path": "models/testbed-s"}]
    study = Study.of({**CONFIG, "models": models, "methods": methods, "predictors": [predictor]})

    with pytest.raises(DyrateError) as refused:
        check_jobs(study)

    assert complaint in str(refused.value)


def test_a_shipped_predictor_of_another_layer_is_refused_before_a_job_runs():
    method = {"name": "dyrate", "layer": 3, "predictor": "plus-0.4"}
    models = [{"name": "testbed-s", "path": "models/testbed-s"}]
    shipped = {"trained": "predictors/testbed", "predictors": [{"name": "plus-0.4"}]}
    study = Study.of({**CONFIG, **shipped, "models": models, "methods": [{"name": "none"}, method]})

    with pytest.raises(DyrateError, match=r"layer=3, but the predictor in .*plus-0.4 was made for layer=2"):
        check_jobs(study)


@pytest.mark.parametrize("path", ["./a", "models/aa", "some/where/else", "/no/such/folder", "~/models"])
def test_a_model_that_can_only_be_a_folder_must_be_there_before_a_job_runs(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/a").mkdir(parents=True)
    models = [{"name": "good", "path": "models/a"}, {"name": "hub", "path": "owner/name"}]
    check_jobs(Study.of({**CONFIG, "models": models, "methods": [{"name": "none"}]}))
    study = Study.of({**CONFIG, "models": [{"name": "a", "path": path}]})

    with pytest.raises(StudyError, match=f"models: a: there is no folder {path}"):
        check_jobs(study)


def test_settings_of_one_decoding_are_jobs_of_their_own():
    sampling = [{"name": "top_p"}, {"name": "top_p", "top_p": 0.7}]
    study = Study.of({**CONFIG, "decodings": sampling})

    sampled = job(study, "a", "vtw-layer=4", "top_p-top_p=0.7")

    assert study.unpruned(sampled).result == "results/small/a/none/top_p-top_p=0.7.json"
    assert len({job.result for job in study.jobs}) == 10


def test_the_studys_seed_is_that_of_sampling():
    of = {"decodings": [{"name": "top_p"}, {"name": "top_p", "seed": 5}], "seed": 3}

    assert [job.decoding["seed"] for job in Study.of({**CONFIG, **of}).jobs[:2]] == [3, 5]


@pytest.mark.parametrize(
    ("config", "gpus"),
    [
        ({"device": "cpu"}, 0),
        ({"device": "cuda:1"}, 1),
        ({"device": "auto"}, 1),
        ({"device": "auto", "resources": {"gpu": 0}}, 0),
        ({"device": "cuda", "resources": {"gpu": 2}}, 2),
    ],
)
def test_a_job_asks_for_a_gpu_where_its_device_is_one(monkeypatch, config, gpus):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert Study.of({**CONFIG, **config}).gpus == gpus


def test_on_a_machine_without_gpu_auto_asks_for_none(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert Study.of(CONFIG).gpus == 0


@pytest.mark.parametrize("changed", ["pope.yaml", "data/pope.parquet"])
def test_a_folder_of_tasks_is_known_by_its_content(tmp_path, changed):
    (tmp_path / "data").mkdir()
    for name in ("pope.yaml", "data/pope.parquet"):
        (tmp_path / name).write_text("old")

    def content():
        return Study.of({**CONFIG, "tasks": str(tmp_path)}).tasks_content

    before = content()
    os.utime(tmp_path / changed)
    assert content() == before

    (tmp_path / changed).write_text("new")
    assert content() != before


@pytest.mark.parametrize("path", ["missing.yaml", "broken.yaml", "list.yaml", "folder.yaml", "latin.yaml"])
def test_a_file_that_holds_no_study_is_refused(tmp_path, path):
    (tmp_path / "broken.yaml").write_text("study: [")
    (tmp_path / "list.yaml").write_text("- study")
    (tmp_path / "latin.yaml").write_bytes("study: \u00e9".encode("latin-1"))
    (tmp_path / "folder.yaml").mkdir()

    with pytest.raises(StudyError, match=path):
        Study.read(tmp_path / path)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("x.yaml", "study: a\nsamples: 1\nsamples: 2", "line 3: the key 'samples' stands there twice"),
        ("x.yaml", "methods: [{name: a, layer: 1, layer: 2}]", "line 1: the key 'layer' stands there twice"),
        ("x.json", '{"study": "a", "study": "b"}', "the key 'study' stands there twice"),
        ("x.yaml", '{"study": "a", "study": "b"}', "the key 'study' stands there twice"),
        ("x.json", '{"samples": NaN}', "NaN is no number of JSON"),
        ("x.yaml", "study: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("x.yaml", "study: 2024-13-01", "month must be in 1..12"),
        ("x.yaml", "study: " + "[" * 5000, "recursion"),
        ("x.yaml", "__use_yte__: true\nstudy: a", "a study's config is no template"),
    ],
)
def test_a_file_that_says_a_thing_twice_or_not_plainly_is_refused(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)

    with pytest.raises(StudyError) as refused:
        Study.read(tmp_path / name)

    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_merged_may_be_overridden(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: [*a, *a], x: 3}\nc: {<<: *b, y: 4}"
    (tmp_path / "x.yaml").write_text(text)

    assert read_config(tmp_path / "x.yaml")["c"] == {"x": 3, "y": 4}


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("config/*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_hold(path):
    study = Study.read(path)

    for job in study.jobs:
        assert study.unpruned(job)


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
        return Model(name="a", path=str(tmp_path / folder)).content

    assert content("first", b"weights") == content("second", b"weights") != content("third", b"others")
    assert Model(name="a", path="owner/name").content == "owner/name"
