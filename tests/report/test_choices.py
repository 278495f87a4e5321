"""What the paper leaves open stands in the report, with values from the records and a reason for each."""

from dataclasses import fields

import pytest

from dyrate.predictor_training.recipe import Recipe
from dyrate.report.choices import choices
from tests.report.test_ablations import text_of


@pytest.fixture
def found(compared, monkeypatch):
    monkeypatch.chdir(compared[3])
    return {choice.name: choice for choice in choices(compared[1])}


def test_every_field_of_the_recipe_has_its_reason(found):
    assert list(found) == [field.name for field in fields(Recipe)]
    assert all(choice.why for choice in found.values())


def test_values_are_those_of_the_records(found):
    assert found["seed"].value == "0"
    assert found["kind"].value == "default: mlp; lean: mlp; gru: gru"


def test_predictors_without_a_record_have_no_choices(compared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choices(compared[1]) == ()


def test_the_page_lists_them(rendered):
    assert "Our choices, where the paper leaves it open" in text_of(rendered[1])
