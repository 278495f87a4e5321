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

from dyrate import FastV, RandomTokens, __version__, load_method, loaded, registry
from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation.provenance import answering_code

FILE_METHOD = '''
from dataclasses import dataclass
from dyrate import Needs, ReductionMethod

@dataclass(frozen=True)
class FirstTokens(ReductionMethod):
    """Keep the first tokens."""
    count: int = 8

    def needs(self, depth):
        return Needs(prefill=(1,))

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
    "stranger": ({"name": "qqqqqq"}, f"known: {', '.join(registry.references())}, or path/to/file.py:Class"),
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
    "file of an impossible name": ({"name": "x" * 999 + ".py:Mine"}, "there is no file xxx"),
    "rate beyond floats": ({"name": "fastv", "rate": 10**400}, "expected a value of type float"),
    "seed beyond 64 bits": ({"name": "random", "seed": 2**80}, "expected a whole number of 64 bits"),
    "entry": (
        {"name": "replay", "rates": [0.5, True]},
        "(rates=[0.5, True]): expected a value of type tuple[float, ...]",
    ),
    "nan in a list": ({"name": "replay", "rates": [float("nan")]}, "expected a finite number"),
    "line break": ({"name": "dyrate", "predictor": "a\nb"}, "text without line breaks"),
    "predictor": (
        {"name": "dyrate"},
        "needs a value for predictor (folder of the trained predictor, such as",
    ),
    "key": ({"name": "fastv", 2: 3}, "a mapping with a 'name'"),
    "number": (3, "expected a name, or a mapping with a 'name', such as {'name': 'none'}, not 3"),
    "twice in JSON": ('{"name": "fastv", "layer": 2, "layer": 3}', "the key 'layer' stands there twice"),
    "NaN in JSON": ('{"name": "fastv", "rate": NaN}', "not JSON: NaN is no number"),
    "deep JSON": ('{"name": ' + "[" * 99999, "not JSON: maximum recursion depth"),
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
        "    def install(self, parts):\n        parts.resize_images(lambda images: images)\n"
    )
    with pytest.raises(DyrateError, match="needs a value for count"):
        load_method({"name": f"{path}:Needs"})


def test_the_registry_and_the_command_line_do_without_torch() -> None:
    code = (
        "import sys, argparse, dyrate.registry as r, dyrate.method_commands as c;"
        "r.slug({'name': 'fastv', 'layer': 2}); r.module_file({'name': 'fastv'});"
        "c.register(argparse.ArgumentParser().add_subparsers());"
        "sys.exit(bool({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lists_of_layers_survive_json(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom dyrate import Needs, ReductionMethod\n"
        "@dataclass(frozen=True)\nclass Pyramid(ReductionMethod):\n    layers: tuple[int, ...] = (8, 16)\n"
        "    note: str | None = None\n"
        "    def needs(self, depth):\n        return Needs(prefill=self.layers)\n"
        "    def prefill(self, view):\n        return view.present\n"
    )
    name = f"{path}:Pyramid"
    method = load_method({"name": name, "layers": [2, 4]})
    assert hash(method) == hash(load_method(json.loads(json.dumps(method.spec()))))
    assert registry.slug({"name": name, "layers": [2, 4]}) == "Pyramid-layers=2+4"
    properties = registry.schema(type(method))["properties"]
    assert properties["layers"]["type"] == "array"
    assert "type" not in properties["note"]


def test_a_name_or_json_text_will_do_as_on_the_command_line() -> None:
    assert load_method("fastv") == load_method('{"name": "fastv"}') == FastV()


def test_equal_numbers_share_a_slug_and_a_long_one_ends_in_its_hash() -> None:
    assert registry.slug({"name": "fastv", "rate": 1.0}) == registry.slug({"name": "fastv", "rate": 1})
    long = [registry.slug({"name": "replay", "rates": [0.25] * 99 + [last]}) for last in (0.5, 0.75)]
    assert [len(text) for text in long] == [200, 200]
    assert long[0] != long[1]


HEAD = """from dataclasses import dataclass
from dyrate import Needs, ReductionMethod, hyperparameter
@dataclass(frozen=True)
class Mine(ReductionMethod):
"""
NEEDS = "    def needs(self, depth):\n        return Needs(prefill=(2,))\n"
DECODES = "    def needs(self, depth):\n        return Needs(decode=(2,))\n"
PREFILL = "    def prefill(self, view):\n        return view.present\n"
DECODE = "    def decode(self, view):\n        return view.present\n"
FAILING = {
    "exits": ("import sys\nsys.exit(0)", r":2: cannot be imported: SystemExit: 0"),
    "quits": ("quit()", r":1: cannot be imported: SystemExit"),
    "fails": ("\n\n1 / 0", r":3: cannot be imported: ZeroDivisionError: division by zero"),
    "lacks": ("import nonsense_xyz", r":1: cannot be imported: ModuleNotFoundError: No module named"),
    "relative": ("from . import other", r":1: cannot be imported: ImportError: attempted relative import"),
    "no Exception": ("class Odd(BaseException): ...\nraise Odd('odd')", r":2: cannot be imported: Odd: odd"),
    "lines": ("raise ValueError('two\\nlines')", r":1: cannot be imported: ValueError: two lines"),
    "syntax": ("x = 1\ndef f(:", r":2: SyntaxError: invalid syntax"),
    "null bytes": ("\0", r"null bytes"),
    "misspelt": (HEAD + NEEDS + PREFILL.replace("prefill", "prefil"), "prefil .* did you mean 'prefill'"),
    "capital": (HEAD + NEEDS + PREFILL.replace("prefill", "Prefill"), "Prefill .* did you mean 'prefill'"),
    "misspelt layers": (HEAD + NEEDS.replace("needs(", "need(") + PREFILL, "did you mean 'needs'"),
    "nothing": (HEAD + "    pass", "it overrides none of prefill, decode, install, needs"),
    "no needs": (HEAD + PREFILL, "prefill would never be asked: override needs"),
    "no needs of both": (HEAD + PREFILL + DECODE, "prefill and decode would never be asked"),
    "hidden": (HEAD + "    decode: int = 1\n" + NEEDS + PREFILL, "the field 'decode' hides"),
    "name": (HEAD + "    name: str = 'x'\n" + NEEDS + PREFILL, "a field cannot be called 'name'"),
    "mutable": (HEAD + "    a: list = []\n" + NEEDS + PREFILL, ":3: cannot be imported: .*mutable default"),
    "set": (
        HEAD + "    a: object = hyperparameter('x', default=frozenset())\n" + NEEDS + PREFILL,
        "a=frozenset.*as a config can say it",
    ),
    "untyped": (HEAD + "    a = hyperparameter('x')\n" + NEEDS + PREFILL, "no type annotation"),
    "unknown type": (HEAD + "    a: 'Nonsense' = 1\n" + NEEDS + PREFILL, "name 'Nonsense' is not defined"),
    "thawed": (HEAD.replace("frozen=True", "") + NEEDS + PREFILL, "non-frozen dataclass from a frozen one"),
    "abstract": (
        "from dyrate import StepwisePruning\nclass Mine(StepwisePruning): ...",
        "must override step_rates",
    ),
    "no score": ("from dyrate import PrefillPruning\nclass Mine(PrefillPruning): ...", "must override score"),
    "ours": (
        "from dyrate import FastV as Mine",
        "only imports Mine from dyrate.methods.fastv; use the name 'fastv'",
    ),
    "like none": ("from dyrate import NoReduction\nclass Mine(NoReduction): ...", "it overrides none of"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_file_that_cannot_work_is_refused_at_load(case: str, tmp_path: Path) -> None:
    text, message = FAILING[case]
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(DyrateError, match=message) as refused:
        load_method(f"{path}:Mine")
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value) or case == "set"


WORKING = {
    "helpers of any other name": HEAD
    + NEEDS
    + PREFILL
    + "    def closest(self): ...\n    def _prefil(self): ...\n",
    "a decode-time method": HEAD + DECODES + DECODE,
    "a list of layers": HEAD + NEEDS.replace("(2,)", "[2, 2]") + PREFILL,
    "only a mask": HEAD + "    def needs(self, depth):\n        return Needs(blocked={('ins', 'img')})\n",
    "a subclass of ours": "from dyrate import FastV\nclass Mine(FastV): ...",
    "a control that says so": HEAD + "    changes_nothing = True\n",
    "types as text": "from __future__ import annotations\n"
    + HEAD
    + "    a: int | None = None\n"
    + NEEDS
    + PREFILL,
    "a script": HEAD + NEEDS + PREFILL + "if __name__ == '__main__':\n    raise SystemExit\n",
}


@pytest.mark.parametrize("case", WORKING)
def test_a_file_that_can_work_is_not_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(WORKING[case])
    load_method(f"{path}:Mine").check(8, 4)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("3", "expected a tuple of layers, not 3"),
        ("None", "expected a tuple of layers, not None"),
        ("'2'", "expected a tuple of layers, not '2'"),
        ("(2.0,)", "2.0 is no layer"),
        ("(True,)", "True is no layer"),
        ("(-1,)", "there is no layer -1; the model has layers 0..7"),
        ("(depth,)", "there is no layer 8; the model has layers 0..7"),
        ("()", "needs names no layer of this model: prefill would never be asked"),
        ("(2,), decode=(3,)", "needs names layers (3,) at decode, but there is no decode to ask"),
        ("(2,), attention={1: 'first'}", "attention.1: 'first' is not one of last, instruction, all"),
        ("(2,), attention={2: 'all'}", "the attention of 'all' queries at layer 2 is there at prefill only"),
        ("(2,), decode_mode='keep'", "decode_mode: 'keep' is not one of select, evict"),
        ("(2,), positions='new'", "positions: 'new' is not one of original, contiguous"),
        ("(2,), reported=1", "reported is 1, which is none of the layers whose attention is read: ()"),
        ("(2,), blocked={('ins', 'image')}", "blocked.0.1: 'image' is not one of sys, img, ins, res, cmp"),
        (
            "(2,), blocked={('ins', 'img', 'res')}",
            "('ins', 'img', 'res'): Tuple should have at most 2 items",
        ),
        ("(2,), tower=(-2,)", "tower: (-2,) is not a mapping"),
        ("(2,), tower={-2: 'keys'}", "tower.-2: 'keys' is not a list"),
        ("(2,), compression_tokens=('voco',)", "compression_tokens.0: 'voco' is not a whole number"),
        ("(2,), tower={-2: ('values',)}", "tower.-2.0: 'values' is not one of states, keys"),
    ],
)
def test_layers_that_a_model_does_not_have_are_refused(layers: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + NEEDS.replace("(2,)", layers) + PREFILL)
    with pytest.raises(DyrateError, match=re.escape(message)):
        load_method(f"{path}:Mine").check(8, 4)


def test_an_interrupted_import_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_method(f"{path}:Mine")


@pytest.mark.parametrize(
    "text",
    ["while True: pass", "import time\nwhile True:\n    try: time.sleep(9)\n    except Exception: pass"],
)
def test_an_import_that_hangs_is_named_and_given_up(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dyrate.plugins.NOTICE", 0.1)
    monkeypatch.setattr("dyrate.plugins.LIMIT", 0.25)
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(DyrateError, match=r"cannot be imported: not done after"):
        load_method(f"{path}:Mine")
    assert f"{path} is still being imported" in capsys.readouterr().err


def test_files_whose_paths_read_alike_are_two(tmp_path: Path) -> None:
    for folder, layer in (("a_b", 1), ("a/b", 3)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "mine.py").write_text(HEAD + NEEDS.replace("2", str(layer)) + PREFILL)
    methods = [load_method(f"{tmp_path / folder}/mine.py:Mine") for folder in ("a_b", "a/b")]
    assert [method.needs(8).prefill for method in methods] == [(1,), (3,)]


@pytest.mark.parametrize("edited", ["mine.py", "beside.py"])
def test_what_was_edited_since_its_import_is_neither_run_nor_hashed(
    edited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    (tmp_path / "beside.py").write_text("K = 2\n")
    (tmp_path / "mine.py").write_text("from beside import K\n" + HEAD + NEEDS.replace("2", "K") + PREFILL)
    spec = {"name": f"{tmp_path}/mine.py:Mine"}
    load_method(spec)
    code = answering_code(spec)
    assert load_method(spec).needs(8).prefill == (2,)
    assert answering_code(spec) == code

    (tmp_path / edited).write_text((tmp_path / edited).read_text() + "L = 3\n")
    for use in (load_method, answering_code):
        with pytest.raises(DyrateError, match=f"{edited} has changed since this process imported it"):
            use(spec)
    assert answering_code({"name": "fastv"})


def test_our_own_code_edited_in_a_running_process_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = registry.module_file("fastv")
    monkeypatch.setitem(loaded._STAMPS, path, (0, 0, 0))
    with pytest.raises(DyrateError, match=r"fastv.py has changed since"):
        answering_code({"name": "fastv"})
    assert answering_code({"name": "vtw"})


def test_a_broken_plug_in_hides_no_other_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_plug_in.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = [
        EntryPoint("broken", "broken_plug_in:Mine", registry.ENTRY_POINTS),
        EntryPoint("missing", "no_such_plug_in:Mine", registry.ENTRY_POINTS),
        EntryPoint("twice", "first:Mine", registry.ENTRY_POINTS),
        EntryPoint("twice", "second:Mine", registry.ENTRY_POINTS),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: plugins)
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert "Keep the visual tokens most attended to" in listed
    assert re.search(r"broken +cannot be used: .*SystemExit: 3", listed)
    assert re.search(r"missing +cannot be used: .*no_such_plug_in", listed)
    assert re.search(r"twice +cannot be used: .*registered twice, as first:Mine and second:Mine", listed)


def test_the_command_line_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"dyrate {__version__}\n"
