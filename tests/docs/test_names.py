"""Documentation names only what exists: commands and their options, files, keys of configs."""

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dyrate.cli import parser
from dyrate.jobs import Job, asked
from dyrate.study import Study
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, commands, page_id, words

PLACES = "config|connectors|docs|dyrate|examples|models|predictors|profiles|tests|workflow|results/h200"
MADE = {"config/mine.yaml", "results/h200/training/7b.json", "results/h200/training/13b.json"}
"""Files that commands of a page write, or that a reader is to write."""
OTHERS = {"source", "pip", "pytest", "hf"}
"""Commands of others, which are believed."""
SUBPARSERS = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)).choices


def printed(page: Path) -> Iterator[list[str]]:
    """The commands of a page's console blocks."""
    for block in blocks(page):
        if block.language == "console":
            yield from (words(command) for command, _ in commands(block.text))


def kinds(kind: type[Job] = Job) -> Iterator[type[Job]]:
    for one in kind.__subclasses__():
        yield one
        yield from kinds(one)


def check(command: list[str]) -> None:
    program, *rest = command
    if program == "dyrate":
        if rest[1:] == ["--help"]:
            assert rest[0] in SUBPARSERS, rest
            return
        given = parser().parse_args(rest)
        for kind in kinds():
            if vars(kind).get("command_name") == rest[0]:
                asked(kind, given, getattr(given, "jobs", None))
    elif program == "snakemake":
        check_snakemake(rest)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        for target in rest:
            assert re.search(
                rf"^{re.escape(target.replace('.venv/.ready', '$(READY)'))}:", makefile, re.MULTILINE
            )
    elif program == "python" and rest[0] != "-m":
        assert (ROOT / rest[0]).is_file(), rest[0]
    elif program == "python":
        assert rest[1] == "lmms_eval", rest
        check_lmms_eval(rest[2:])
    else:
        assert program in OTHERS, program


def check_snakemake(rest: list[str]) -> None:
    from snakemake.cli import get_argument_parser

    profiles = [rest[place + 1] for place, word in enumerate(rest) if word == "--workflow-profile"]
    assert all((ROOT / profile / "config.yaml").is_file() for profile in profiles)
    given = get_argument_parser().parse_args(rest)
    for path in given.configfile or ():
        name = Path(path).relative_to(ROOT) if Path(path).is_absolute() else Path(path)
        assert (ROOT / name).is_file() or name.stem in ("mine", "<name>"), path


def check_lmms_eval(rest: list[str]) -> None:
    from lmms_eval.__main__ import parse_eval_args

    from dyrate import load_method

    options = argparse.ArgumentParser()
    for option in ("--model", "--tasks", "--model_args"):
        options.add_argument(option)
    options.add_argument("--batch_size", type=int)
    given = options.parse_args(rest)
    assert callable(parse_eval_args)
    assert given.model == "dyrate"
    told: dict[str, Any] = dict(one.split("=") for one in given.model_args.split(","))
    del told["pretrained"]
    load_method({"name": told.pop("method"), **{key: yaml.safe_load(value) for key, value in told.items()}})


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_printed_commands_are_ones_that_the_programs_take(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for command in printed(page):
        if "my_methods/" not in shlex.join(command) and "okvqa" not in command:  # which a page makes first
            check(command)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_sentences_exist_with_their_options(page: Path) -> None:
    for name, rest in re.findall(r"`dyrate ([\w-]+)([^`]*)`", page.read_text("utf-8").replace("\n", " ")):
        assert name in SUBPARSERS, name
        known = SUBPARSERS[name]._option_string_actions
        nested = [one for one in SUBPARSERS[name]._actions if isinstance(one, argparse._SubParsersAction)]
        for option in re.findall(r"(?<!\S)--[\w-]+", rest):
            below = [part._option_string_actions for one in nested for part in one.choices.values()]
            assert option in known or any(option in part for part in below), f"dyrate {name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_are_named_exist(page: Path) -> None:
    text = re.sub(r"^```diff.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)  # a link's file is another test's
    made = {block.title for block in blocks(page)}
    for name in re.findall(rf"(?<![\w/.-])((?:{PLACES})/[\w./*-]*[\w*])(?![\w<{{])", text):
        there = [*ROOT.glob(name.rstrip(".")), *(ROOT / "docs").glob(name.rstrip("."))]
        assert there or name in made | MADE, name


def test_makefile_targets_in_sentences_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)`", page.read_text("utf-8")):
            check(["make", target])


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", DOCS / "other-systems.md", DOCS / "systems.md"], ids=page_id
)
def test_parts_of_configs_are_keys_that_a_study_has(page: Path) -> None:
    whole = yaml.safe_load((ROOT / "config/paper.yaml").read_text("utf-8"))
    for block in blocks(page):
        if block.language == "yaml":
            part = yaml.safe_load(block.text)
            part.pop("external", None)  # whose file another command makes
            models = [*whole["models"][:2], *part.pop("models", ())]
            Study.of({**whole, **part, "models": models}, page.name)


@pytest.mark.slow
def test_what_is_generated_is_asked_for_by_the_command_that_makes_it() -> None:
    done = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mkdocs build --strict" in done.stdout
