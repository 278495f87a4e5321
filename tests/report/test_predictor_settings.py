"""What the paper leaves open stands in the report, with values from the records and a reason for each."""

from dataclasses import replace

import pytest

from dyrate.analysis.predictor_settings import choices, without_effect
from dyrate.predictor_training.recipe import Recipe
from tests.report import fake
from tests.report.test_ablations import text_of


@pytest.fixture
def found(compared, monkeypatch):
    monkeypatch.chdir(compared[3])
    return {choice.name: choice for choice in choices(compared[1])}


def test_every_field_of_the_recipe_that_matters_has_its_reason(found):
    idle = without_effect({})

    assert list(found) == [name for name in Recipe.model_fields if name not in idle]
    assert all(choice.why for choice in found.values())


@pytest.mark.parametrize(
    ("recipe", "matters", "idle"),
    [
        ({}, {"hidden"}, {"history", "ranking_steps", "ranking_learning_rate", "ranking_hidden"}),
        ({"kind": "window"}, {"history", "hidden"}, set()),
        ({"kind": "linear"}, set(), {"hidden", "history"}),
        ({"ranking": "mlp"}, {"ranking_steps", "ranking_learning_rate", "ranking_hidden"}, {"history"}),
        ({"ranking": "linear"}, {"ranking_steps", "ranking_learning_rate"}, {"ranking_hidden"}),
        ({"mode": "evict"}, set(), {"monotone"}),
        ({"mode": "select"}, {"monotone"}, set()),
    ],
)
def test_what_a_recipe_does_not_use_has_no_effect(recipe, matters, idle):
    found = without_effect(recipe)

    assert idle <= found
    assert not matters & found
    assert found <= set(Recipe.model_fields)


def test_a_setting_is_that_of_the_predictors_that_use_it(compared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [m for m in compared[1] if m.method == "dyrate" and m.model == "testbed-s"]
    for entry in {m.job.predictor.folder: m.job.predictor for m in rows}.values():
        learned = {"ranking": "mlp", "ranking_steps": 150} if entry.name == "lean" else {"ranking_steps": 300}
        fake.write_predictor(replace(entry, recipe={**entry.recipe, **learned}), tmp_path)

    values = {choice.name: choice.value for choice in choices(rows)}

    assert values["ranking_steps"] == "lean: 150"
    assert "history" not in values


def test_values_are_those_of_the_records(found):
    assert found["seed"].value == "0"
    assert found["kind"].value == "default, lean: mlp; gru: gru"


def test_predictors_without_a_record_have_no_choices(compared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choices(compared[1]) == ()


def test_the_page_lists_them(rendered):
    assert "Our choices, where the paper leaves it open" in text_of(rendered[1]["audit.html"])
