"""The page of systems: every row that the paper prints is on it, and the methods that it names are there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from dyrate import registry
from dyrate.analysis.ablations import DECODINGS
from dyrate.bench import study_jobs as timing
from dyrate.connectors.registry import connectors
from dyrate.convert.original import System
from dyrate.paper import published
from dyrate.study import Study

PAGE = (Path(__file__).parents[1] / "docs/systems.md").read_text("utf-8")


def rows(heading: str) -> list[tuple[str, str]]:
    """The first two cells of each line of the table under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return list(_cells(section))


def _cells(section: str) -> Iterator[tuple[str, str]]:
    for line in section.partition("| --- |")[2].splitlines()[1:]:
        if line.startswith("| "):
            first, second, *rest = line.strip("|").split(" | ")
            assert all(cell.strip() for cell in rest), line
            yield first.strip(), second.strip()


def test_every_row_of_table_1_is_on_the_page_once_in_its_order() -> None:
    assert rows("Table I") == [(row.name, row.llm) for row in published.table1()]


def test_every_row_of_tables_2_and_3_is_on_the_page() -> None:
    expected = [(row.name, row.group) for row in published.table2()]
    assert {(row.name, row.group) for row in published.table3()} <= set(expected)
    assert rows("Tables II and III") == expected


def test_every_row_of_the_ablations_is_on_the_page() -> None:
    expected = [(row.name, "strategy") for row in published.strategy()]
    expected += [(row.name, "decoding") for row in published.decoding()]
    assert rows("Ablations") == expected


def test_rows_that_are_converted_are_the_converters_connectors() -> None:
    said = dict(re.findall(r"^\| ([\w-]+) \| .*? convert, which.*?: connector `(\w+)`", PAGE, re.MULTILINE))
    assert said == {"LLaMA-VID": "context", "TokenPacker": "token_packer", "M3": "nested_pool"}
    assert set(said.values()) <= set(connectors())
    assert {name.lower() for name in said} == set(get_args(System)) - {"llava"}


def test_methods_on_the_page_exist() -> None:
    named = set(re.findall(r"method `(\w+)`", PAGE))
    assert "visionzip" in named
    assert named <= set(registry.references())


@pytest.fixture(scope="module")
def paper() -> Study:
    return Study.read(Path(__file__).parents[1] / "config/paper.yaml")


def test_every_row_of_table_1_is_in_the_papers_config_or_the_page_says_why_not(paper: Study) -> None:
    measured = {method.published.get("table1") for method in paper.methods}
    measured |= {row for model in paper.models if model.adapter for row in model.published}
    for row in published.table1():
        (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {row.name} | {row.llm} |"))
        assert ({row.name, row.title} & measured != set()) != ("**not in the config**: " in line), line


def test_every_row_of_tables_2_and_3_is_in_the_papers_config_for_its_model(paper: Study) -> None:
    measured, timed = (
        {(model, job.method.published.get("table2")) for job in jobs for model in job.model.published}
        for jobs in (paper.jobs, [job for jobs in timing.timed(paper).values() for job in jobs])
    )

    assert {(row.group, row.name) for row in published.table2()} <= measured
    assert {(row.group, row.name) for row in published.table3()} <= timed


def test_both_ablations_are_in_the_papers_config_on_the_model_that_they_are_printed_of(paper: Study) -> None:
    jobs = [job for job in paper.jobs if published.TABLE1_MODEL in job.model.published]
    strategies = {
        job.method.published["strategy"]: job.method for job in jobs if "strategy" in job.method.published
    }
    decoded = {(job.method.slug, job.decoding["name"]) for job in jobs if "nocaps" in job.method.benchmarks}
    mine = next(job.method for job in jobs if job.method.published.get("table2") == "DyRate")

    assert {*strategies} == {row.name for row in published.strategy()}
    assert strategies["Ours(FP)"].spec["layer"] == 3
    assert {DECODINGS[name] for slug, name in decoded if slug == mine.slug} == {
        row.name for row in published.decoding()
    }
    assert {name for slug, name in decoded if slug == "none"} == {*DECODINGS}


def test_both_rankings_are_in_the_papers_config_and_ours_stands_beside_no_row(paper: Study) -> None:
    origins = {(entry.model.name, entry.origin, entry.recipe["ranking"]) for entry in paper.predictors}
    for model in ("llava-1.5-7b", "llava-1.5-13b"):
        assert {(model, "paper", "attention"), (model, "ours", "mlp")} <= origins
    for job in paper.jobs:
        if job.predictor and job.predictor.origin == "ours":
            assert not job.method.published


def test_rows_that_a_method_measures_are_so_in_the_studys_config(paper: Study) -> None:
    study = paper
    measured = {m.published["table1"]: m.name for m in study.methods if "table1" in m.published}
    assert len(measured) == 7
    for name, method in measured.items():
        (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name} | Vicuna"))
        assert f"method `{method}`" in line
