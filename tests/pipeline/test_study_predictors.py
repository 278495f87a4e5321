"""Predictors, groups, and entries that run on some benchmarks or decodings only."""

import json
from pathlib import Path

import pytest

from dyrate.study import Study, StudyError
from dyrate.study.fit import check_jobs

CONFIG = {
    "study": "small",
    "models": [{"name": "a", "path": "models/a"}, {"name": "b", "path": "some/hub-id"}],
    "predictors": [
        {"name": "default", "layer": 2, "budget_weight": 0.1},
        {"name": "deep", "models": ["b"], "layer": 3, "data": "mine.jsonl"},
    ],
    "methods": [
        {"name": "none"},
        {"name": "dyrate", "predictor": "default", "layer": 2},
        {"name": "dyrate", "predictor": "deep", "layer": 3, "models": ["b"], "group": "predictor"},
    ],
    "benchmarks": ["gqa", "pope", "nocaps"],
}
SHIPPED = "predictors/small/a/default"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ship(recipe, folder=SHIPPED, weights="of the model"):
    Path(folder).mkdir(parents=True)
    Path(folder, "predictor.json").write_text(json.dumps({"recipe": recipe, "model": {"weights": weights}}))
    Path(folder, "predictor.safetensors").write_bytes(b"weights")


def job(study, model="a", slug="dyrate-layer=2-predictor=default"):
    return {job.key: job for job in study.jobs}[model, slug, "greedy"]


def method_of(study, found):
    return study.evaluation(found).method


def test_a_jobs_path_has_the_predictors_name_and_its_command_the_folder():
    study = Study.of(CONFIG)

    assert job(study).result == "results/small/a/dyrate-layer=2-predictor=default/greedy.json"
    assert method_of(study, job(study)) == {
        "name": "dyrate",
        "predictor": "results/small/predictors/a/default",
        "layer": 2,
    }


def test_a_predictor_is_trained_per_model_where_it_is_listed_and_used():
    study = Study.of(CONFIG)

    assert [entry.folder for entry in study.trainings] == [
        "results/small/predictors/a/default",
        "results/small/predictors/b/default",
        "results/small/predictors/b/deep",
    ]
    assert Study.of({**CONFIG, "methods": CONFIG["methods"][:1]}).trainings == ()


def test_the_trainings_command_has_the_recipe_and_the_users_data():
    study = Study.of({**CONFIG, "device": "cpu"})

    line = " ".join(study.asked_training(study.training("b", "deep")).arguments())

    assert line == (
        '--model some/hub-id --recipe {"layer": 3} --data mine.jsonl --device cpu --dtype auto '
        "--output results/small/predictors/b/deep"
    )


def test_data_is_known_by_its_content_where_it_is_there():
    deep = Study.of(CONFIG).training("b", "deep")
    assert deep.data_content == "mine.jsonl"

    Path("mine.jsonl").write_text("{}")
    first = deep.data_content
    Path("mine.jsonl").write_text("{ }")

    assert len({"mine.jsonl", first, deep.data_content}) == 3


def test_a_shipped_predictor_takes_the_place_of_a_training():
    ship({"layer": 2, "budget_weight": 0.1, "seed": 0})
    study = Study.of(CONFIG)

    assert method_of(study, job(study))["predictor"] == SHIPPED
    assert study.trainings[0].folder == "results/small/predictors/b/default"
    study.training("a", "default").check_shipped()

    again = Study.of({**CONFIG, "retrain": 1})
    assert method_of(again, job(again))["predictor"] == "results/small/predictors/a/default"
    again.training("a", "default").check_shipped()


def test_studies_may_share_trained_predictors():
    ship({"layer": 2, "budget_weight": 0.1}, "mine/a/default")
    study = Study.of({**CONFIG, "trained": "mine"})

    assert method_of(study, job(study))["predictor"] == "mine/a/default"
    assert job(study, "b").predictor.folder == "results/small/predictors/b/default"


def test_a_shipped_predictor_is_known_by_its_content():
    ship({"layer": 2, "budget_weight": 0.1})
    first = job(Study.of(CONFIG)).predictor_content

    Path(SHIPPED, "predictor.safetensors").write_bytes(b"others")

    assert first != job(Study.of(CONFIG)).predictor_content
    assert job(Study.of(CONFIG), "b").predictor_content is None


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        ({"layer": 2, "budget_weight": 0.3}, "was trained with budget_weight=0.3, but the study says 0.1"),
        ({"layer": 2}, "was trained with budget_weight=None, but the study says 0.1"),
        ([], "predictor.json does not record its recipe and model"),
    ],
)
def test_a_shipped_predictor_of_another_recipe_is_refused(recipe, complaint):
    ship(recipe)

    with pytest.raises(StudyError) as refused:
        check_jobs(Study.of(CONFIG))

    assert str(refused.value).startswith("predictors: default: predictors/small/a/default")
    assert complaint in str(refused.value)
    assert "--config retrain=1" in str(refused.value)


@pytest.mark.parametrize("damage", ["unlink", "write_text"])
def test_a_shipped_predictor_without_a_record_is_refused(damage):
    ship({"layer": 2, "budget_weight": 0.1})
    getattr(Path(SHIPPED, "predictor.json"), damage)(*(["{"] if damage == "write_text" else []))

    with pytest.raises(StudyError, match="does not record its recipe and model"):
        check_jobs(Study.of(CONFIG))


def test_a_shipped_predictor_of_other_weights_is_refused():
    from dyrate.evaluation.checkpoint import content_hash

    Path("models/a").mkdir(parents=True)
    Path("models/a/model.safetensors").write_bytes(b"weights")
    recipe = {"layer": 2, "budget_weight": 0.1}
    ship(recipe, weights=content_hash(Path("models/a")))
    Study.of(CONFIG).training("a", "default").check_shipped()

    Path("models/a/config.json").write_text("{}")
    ship(recipe, "predictors/small/b/default", weights="unknown: a hub id has no files here")
    Study.of(CONFIG).training("b", "default").check_shipped()

    with pytest.raises(
        StudyError, match="was trained on other weights than those in models/a; train it again"
    ):
        Study.of(CONFIG).training("a", "default").check_shipped()


NONE, DYRATE, DEEP = CONFIG["methods"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"methods": [NONE, {**DYRATE, "predictor": "defaut"}]},
            "dyrate-layer=2-predictor=defaut: 'defaut' is no predictor on 'a'; did you mean 'default'?",
        ),
        ({"methods": [NONE, {**DEEP, "models": ["a"]}]}, "'deep' is no predictor on 'a'; known: default"),
        ({"predictors": [], "methods": [NONE, DYRATE]}, "'default' is no predictor on 'a'; known: none"),
        ({"predictors": [*CONFIG["predictors"]] * 2}, "predictors: 'deep' is given twice for 'b'"),
        ({"predictors": [{"name": "p", "models": ["c"]}]}, "'c' is no model of the study"),
        ({"predictors": [{"layer": 2}]}, "predictors.0.name is missing"),
        ({"retrain": "yes"}, "retrain: 'yes' is not one of"),
        ({"methods": [NONE, {**DYRATE, "group": "mian"}]}, "methods.1.group: 'mian' is not one of"),
        (
            {"methods": [NONE, {**DYRATE, "benchmarks": ["popee"]}]},
            "'popee' is no benchmark of the study; did you mean 'pope'?",
        ),
        ({"methods": [NONE, {**DYRATE, "decodings": ["beem-2"]}]}, "decodings: unknown decoding 'beem-2'"),
        (
            {"methods": [NONE, {**DYRATE, "decodings": ["beam-2"]}]},
            "methods: no 'none' on 'a' under beam-2: differences are taken from the unpruned model",
        ),
        (
            {"methods": [{**NONE, "benchmarks": ["gqa"]}, DYRATE]},
            "methods: 'none' on 'a' lacks the benchmark 'pope', which dyrate-layer=2-predictor=default has",
        ),
        (
            {"methods": [{**NONE, "published": {"strategy": "LLaVa"}}]},
            "published.strategy: 'LLaVa' is no row of it; did you mean 'LLaVA'?",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_place(change, complaint):
    with pytest.raises(StudyError) as refused:
        Study.of({**CONFIG, **change}, "x")

    assert complaint in str(refused.value)


def test_a_method_runs_on_its_own_benchmarks_in_the_studys_order():
    methods = [NONE, {**DYRATE, "benchmarks": ["nocaps", "gqa"]}]
    study = Study.of({**CONFIG, "methods": methods})

    assert study.evaluation(job(study)).benchmarks == ("gqa", "nocaps")


def test_a_method_runs_under_its_own_decodings():
    captions = {"benchmarks": ["nocaps"], "decodings": ["beam-2", "top_p"], "group": "decoding"}
    study = Study.of(
        {**CONFIG, "seed": 5, "methods": [NONE, DYRATE, {**NONE, **captions}, {**DYRATE, **captions}]}
    )

    found = {job.key[1:]: job for job in study.jobs if job.model.name == "a"}

    assert [slug[1] for slug in found] == ["greedy"] * 2 + ["beam-2", "top_p-seed=5"] * 2
    sampled = found["dyrate-layer=2-predictor=default", "top_p-seed=5"]
    assert (sampled.decoding["seed"], sampled.method.group) == (5, "decoding")
    assert (whole := study.unpruned(sampled))
    assert whole.result == "results/small/a/none/top_p-seed=5.json"


def test_a_decodings_settings_are_the_studys_where_it_gives_them():
    methods = [NONE, {**DYRATE, "decodings": ["top_p"]}]
    study = Study.of({**CONFIG, "methods": methods, "decodings": [{"name": "top_p", "top_p": 0.7}]})

    assert [entry["top_p"] for entry in study.methods[1].decodings] == [0.7]


@pytest.mark.parametrize(
    ("predictor", "published", "complaint"),
    [
        ({"ranking": "mlp"}, {"table1": "DyRate"}, "leave out published: {'table1': 'DyRate'}"),
        ({"per_head": True}, {"table2": "DyRate"}, "leave out published: {'table2': 'DyRate'}"),
        ({"lagged": [4]}, {"table1": "DyRate"}, "is not the paper's"),
        ({"ranking": "mlp", "origin": "paper"}, {}, "origin: paper, but the recipe makes it 'ours'"),
        ({"origin": "ours"}, {}, "origin: ours, but the recipe makes it 'paper'"),
        ({"origin": "paper"}, {"table1": "DyRate"}, None),
        ({"ranking": "mlp", "origin": "ours"}, {}, None),
    ],
)
def test_what_is_ours_stays_out_of_the_papers_rows(predictor, published, complaint):
    study = Study.of(
        {
            **CONFIG,
            "models": [{"name": "b", "path": "some/hub-id"}],
            "predictors": [{"name": "default", "layer": 2, **predictor}],
            "methods": [
                {"name": "none"},
                {"name": "dyrate", "predictor": "default", "layer": 2, "published": published},
            ],
        }
    )
    if complaint is None:
        check_jobs(study)
        return
    with pytest.raises(StudyError) as refused:
        check_jobs(study)
    assert complaint in str(refused.value)
