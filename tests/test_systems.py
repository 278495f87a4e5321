"""The page of systems: every row that the paper prints is on it, and the methods that it names are there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from dyrate import registry
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
    said = dict(re.findall(r"^\| ([\w-]+) \| .* \| convert.*?: connector `(\w+)`", PAGE, re.MULTILINE))
    assert said == {"LLaMA-VID": "context", "TokenPacker": "token_packer", "M3": "nested_pool"}
    assert set(said.values()) <= set(connectors())
    assert {name.lower() for name in said} == set(get_args(System)) - {"llava"}


def test_methods_on_the_page_exist() -> None:
    named = set(re.findall(r"method `(\w+)`", PAGE))
    assert "visionzip" in named
    assert named <= set(registry.references())


def test_rows_that_a_method_measures_are_so_in_the_studys_config() -> None:
    study = Study.read(Path(__file__).parents[1] / "config/paper.yaml")
    measured = {m.published["table1"]: m.name for m in study.methods if "table1" in m.published}
    assert len(measured) == 7
    for name, method in measured.items():
        (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {name} | Vicuna"))
        assert f"method `{method}`" in line
