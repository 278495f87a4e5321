from importlib import import_module
from pathlib import Path

import pytest

import dyrate
from dyrate.fingerprint import fingerprint, import_closure, local_closure, sources
from dyrate.imports import public_names, source

FILES = {
    "__init__.py": "from dyrate.registry import load",
    "registry.py": 'import dyrate.secret\nBUILT_IN = {"a": "dyrate.methods.a:A"}',
    "secret.py": "",
    "base.py": '"""Doc."""\nVALUE = 1\n',
    "methods/__init__.py": "",
    "methods/a.py": "from dyrate.base import VALUE",
    "methods/b.py": "from ..base import VALUE\nfrom typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    import dyrate.methods.a",
    "work/__init__.py": "",
    "work/go.py": "def go():\n    from dyrate import base\n    from dyrate.work import late\n",
    "work/late.py": "import dyrate.registry",
    "work/README.md": "words",
    "work/data/table.csv": "1,2",
}


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "dyrate"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def closure(package, *modules):
    return {path.relative_to(package).as_posix() for path in import_closure(modules, package)}


def test_imports_are_followed_also_in_functions(package):
    assert closure(package, "dyrate.work.go") == {
        "base.py",
        "work/__init__.py",
        "work/go.py",
        "work/late.py",
    }


def test_tables_of_names_are_not_followed(package):
    assert "secret.py" not in closure(package, "dyrate.work.late")


def test_type_only_imports_are_not_followed(package):
    assert closure(package, "dyrate.methods.b") == {"base.py", "methods/b.py"}


def test_an_unknown_module_is_an_error(package):
    with pytest.raises(ValueError, match=r"dyrate\.wrok"):
        import_closure(["dyrate.wrok"], package)


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("work/late.py", "import dyrate.registry\nX = 1", True),
        ("base.py", "VALUE = 2", True),
        ("work/data/table.csv", "1,3", True),
        ("base.py", '"""Other words."""\n# a comment\nVALUE = 1\n', False),
        ("methods/a.py", "X = 1", False),
        ("registry.py", "X = 1", False),
        ("__init__.py", "X = 1", False),
        ("work/README.md", "other words", False),
    ],
)
def test_what_changes_a_fingerprint(package, name, text, changes):
    before = fingerprint(["dyrate.work.go"], package=package)

    (package / name).write_text(text)

    assert (fingerprint(["dyrate.work.go"], package=package) != before) is changes


def test_a_method_outside_the_package_counts_by_its_file(package, tmp_path):
    extra = tmp_path / "method.py"
    extra.write_text("X = 1")
    before = fingerprint(["dyrate.base"], [extra], package)

    extra.write_text("X = 2")

    assert fingerprint(["dyrate.base"], [extra], package) != before


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("import beside", "beside.py"),
        ("from beside import X", "beside.py"),
        ("from ours.part import X", "ours/part.py"),
        ("from ours.part import X", "ours/__init__.py"),
        ("from dyrate.methods.a import A", "dyrate/methods/a.py"),
        ("from dyrate import A", "dyrate/methods/a.py"),
        ("import dyrate\nX = dyrate.A", "dyrate/methods/a.py"),
        ("import dyrate as ours\nX = ours.A", "dyrate/methods/a.py"),
        ("import beside", "further.py"),
    ],
)
def test_what_a_method_outside_the_package_imports_counts_too(package, tmp_path, text, changed):
    (tmp_path / "method.py").write_text(text)
    (tmp_path / "beside.py").write_text("import further")
    (tmp_path / "further.py").write_text("")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/__init__.py").write_text("")
    (tmp_path / "ours/part.py").write_text("")
    (package / "__init__.py").write_text("if TYPE_CHECKING:\n    from dyrate.methods.a import A as A")
    files = [tmp_path / "method.py"]
    before = fingerprint(["dyrate.base"], files, package)

    with (tmp_path / changed).open("a") as stream:
        stream.write("\nY = 2")

    assert fingerprint(["dyrate.base"], files, package) != before


def test_each_public_name_counts_as_the_module_that_it_comes_from(tmp_path):
    extra = tmp_path / "method.py"
    for name in set(dir(dyrate)) - {"__version__", "load_method"}:
        extra.write_text(f"from dyrate import {name}")
        home = import_module(public_names()[name])
        assert Path(str(home.__file__)) in sources([], [extra]), name


def test_a_plug_in_counts_with_its_package_and_without_what_is_installed_beside_it(package, tmp_path):
    installed = tmp_path / "site-packages"
    (installed / "theirs").mkdir(parents=True)
    (installed / "theirs/__init__.py").write_text("")
    (installed / "theirs/method.py").write_text("import torch\nfrom .base import X")
    (installed / "theirs/base.py").write_text("X = 1")
    (installed / "torch.py").write_text("")

    assert [path.name for path in local_closure([installed / "theirs/method.py"], package)] == [
        "__init__.py",
        "base.py",
        "method.py",
    ]


def test_the_same_method_in_another_checkout_is_the_same_code(package, tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "method.py").write_text("X = 1")

    first, second = (
        fingerprint(["dyrate.base"], [tmp_path / folder / "method.py"], package)
        for folder in ("first", "second")
    )

    assert first == second


def test_the_reports_code_is_not_the_evaluations():
    def names(module):
        return {path.relative_to(Path(path).parents[1]).as_posix() for path in import_closure([module])}

    telling = ("report/", "analysis/", "speed/", "paper/")
    assert not [name for name in names("dyrate.evaluation.evaluate") if name.startswith(telling)]
    assert not [name for name in names("dyrate.report.commands") if name.startswith("methods/")]


SAID = """
def f(x, *, wide=7):
    return f"{x:<{wide}} {x!r}", ["", b"", None, ()], lambda: [y for y in x if y]

class A:
    a: int = 3
"""


def test_one_code_has_one_hash_by_every_python(tmp_path: Path) -> None:
    """By 3.11, 3.12 and 3.13, whose `ast.dump` differ: results are carried from machine to machine."""
    path = tmp_path / "said.py"
    path.write_text(SAID)
    assert source(path, 0).digest[:16] == "200c08e2d0fe1f7a"
    path.write_text(SAID.replace('["", ', "["))
    assert source(path, 1).digest[:16] != "200c08e2d0fe1f7a", "an empty text in a list says something"
