"""Names, plug-ins, files, specs, schemas, slugs, and the messages for mistakes in them."""

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dyrate import FastV, RandomTokens, load_method, registry
from dyrate.errors import DyrateError

FILE_METHOD = '''
from dataclasses import dataclass
from dyrate import ReductionMethod

@dataclass(frozen=True)
class FirstTokens(ReductionMethod):
    """Keep the first tokens."""
    count: int = 8

    def prune_layers(self, num_layers):
        return (1,)

    def prefill(self, view):
        return view.present & (view.present.cumsum(1) <= self.count)

@dataclass(frozen=True)
class NotAMethod:
    count: int = 8

class Undecorated(ReductionMethod):
    count: int = 8
'''


@pytest.fixture
def method_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE_METHOD)
    return path


REQUIRED = {"dyrate": {"predictor": "predictors/mine"}, "replay": {"rates": [0.5]}}


@pytest.mark.parametrize("name", registry.references())
def test_a_spec_survives_a_round_trip_through_json(name: str) -> None:
    method = load_method({"name": name, **REQUIRED.get(name, {})})
    assert load_method(json.loads(json.dumps(method.spec()))) == method
    jsonschema.validate(method.spec(), registry.schema(type(method)))


def test_spec_label_and_slug_show_the_hyperparameters() -> None:
    method = FastV(layer=3, rate=0.25)
    assert method.spec() == {"name": "fastv", "layer": 3, "rate": 0.25}
    assert method.label == "FastV (K=3, R=0.25)"
    assert registry.slug(method.spec()) == "fastv-layer=3-rate=0.25"
    assert RandomTokens(seed=4).label == "Random (K=2, R=0.5, seed=4)"
    assert load_method({"name": "none"}).label == "Unpruned"


def test_methods_are_hashable_and_equal_by_value() -> None:
    assert {FastV(), FastV(layer=2, rate=0.5)} == {FastV()}


def test_slugs_have_no_characters_that_a_path_minds(method_file: Path) -> None:
    assert registry.slug({"name": f"{method_file}:FirstTokens", "count": 4}) == "FirstTokens-count=4"
    assert registry.slug({"name": "x", "b": "a/ü "}) == "x-b=a___"


def test_a_method_from_a_file(method_file: Path) -> None:
    spec = {"name": f"{method_file}:FirstTokens", "count": 4}
    method = load_method(spec)
    assert method.spec() == spec
    assert load_method(method.spec()) == method
    assert method.label == "FirstTokens (count=4)"
    assert registry.module_file(spec) == method_file


def test_a_method_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EntryPoint("third", "dyrate.methods.fastv:FastV", registry.ENTRY_POINTS)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [plugin] if group == registry.ENTRY_POINTS else []
    )
    assert load_method({"name": "third", "layer": 4}) == FastV(layer=4)


MISTAKES: dict[str, tuple[Any, str]] = {
    "name": ({"name": "fastvv"}, "did you mean 'fastv'?"),
    "stranger": ({"name": "qqqqqq"}, "known: depth_prune, downsample, dyrate, fastv"),
    "no name": ({"layer": 2}, "a mapping with a 'name'"),
    "field": ({"name": "fastv", "rat": 0.5}, "has no field 'rat'; did you mean 'rate'?"),
    "rate too high": ({"name": "fastv", "rate": 1.5}, "FastV(rate=1.5): expected from 0 to 1"),
    "rate as text": ({"name": "fastv", "rate": "0.5"}, "FastV(rate='0.5'): expected a value of type float"),
    "rate nan": ({"name": "fastv", "rate": float("nan")}, "FastV(rate=nan): expected from 0 to 1"),
    "layer 0": ({"name": "fastv", "layer": 0}, "FastV(layer=0): expected at least 1"),
    "layer as float": ({"name": "fastv", "layer": 2.5}, "FastV(layer=2.5): expected a value of type int"),
    "layer as bool": ({"name": "fastv", "layer": True}, "expected a value of type int"),
    "choice": ({"name": "vtw", "positions": "relative"}, "expected one of 'original', 'contiguous'"),
    "no field at all": ({"name": "none", "rate": 0.5}, "Its fields: none"),
    "file": ({"name": "nowhere/mine.py:Mine"}, "there is no file nowhere/mine.py"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_explained(case: str) -> None:
    spec, message = MISTAKES[case]
    with pytest.raises(DyrateError, match=re.escape(message)):
        load_method(spec)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NotAMethod", "not a subclass of dyrate.ReductionMethod"),
        ("Missing", "Missing is not a subclass"),
        ("Undecorated", "needs the decorator @dataclass(frozen=True)"),
    ],
)
def test_classes_that_are_no_methods_are_explained(name: str, message: str, method_file: Path) -> None:
    with pytest.raises(DyrateError, match=re.escape(message)):
        load_method({"name": f"{method_file}:{name}"})


def test_a_field_without_default_must_be_given(tmp_path: Path) -> None:
    path = tmp_path / "needs.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom dyrate import ReductionMethod\n"
        "@dataclass(frozen=True)\nclass Needs(ReductionMethod):\n    count: int\n"
        "    def encode(self, features):\n        return features[:, : self.count]\n"
    )
    with pytest.raises(DyrateError, match="needs a value for count"):
        load_method({"name": f"{path}:Needs"})


def test_the_registry_and_the_command_line_do_without_torch() -> None:
    code = (
        "import sys, argparse, dyrate.registry as r, dyrate.methods.commands as c;"
        "r.slug({'name': 'fastv', 'layer': 2}); r.module_file({'name': 'fastv'});"
        "c.register(argparse.ArgumentParser().add_subparsers());"
        "sys.exit(bool({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lists_of_layers_survive_json(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom dyrate import ReductionMethod\n"
        "@dataclass(frozen=True)\nclass Pyramid(ReductionMethod):\n    layers: tuple[int, ...] = (8, 16)\n"
        "    note: str | None = None\n"
        "    def prune_layers(self, num_layers):\n        return self.layers\n"
        "    def prefill(self, view):\n        return view.present\n"
    )
    name = f"{path}:Pyramid"
    method = load_method({"name": name, "layers": [2, 4]})
    assert hash(method) == hash(load_method(json.loads(json.dumps(method.spec()))))
    assert registry.slug({"name": name, "layers": [2, 4]}) == "Pyramid-layers=2+4"
    properties = registry.schema(type(method))["properties"]
    assert properties["layers"]["type"] == "array"
    assert "type" not in properties["note"]
