"""What lmms-eval's adapters answered, in the tables: rows like any other, but of no method."""

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from dyrate.analysis.measurement import Measurement
from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table1, table2, table3
from dyrate.evaluation import results
from dyrate.evaluation.results import ResultError
from dyrate.paper import published
from dyrate.report import csv_files
from dyrate.report.page import report_pages
from dyrate.study import Study
from tests.report import fake

GIVEN = {"pretrained": "Salesforce/instructblip-vicuna-7b"}
BLIP = {"name": "BLIP-7B", "adapter": "instructblip", "arguments": GIVEN, "cut_prompt": True}
CONFIG: dict[str, Any] = {
    **fake.CONFIG,
    "models": [
        *fake.CONFIG["models"],
        {**BLIP, "published": "InstructBLIP (7B)"},
        {"name": "Other", "adapter": "idefics2"},
    ],
}


def write(study: Study, root: Path) -> None:
    fake.write_study(study, root)
    for job in study.jobs:
        if (system := job.model.system) is not None:
            result = fake.result(job, study)
            del result["shape"]
            for benchmark in result["benchmarks"].values():
                benchmark |= {"visual_tokens": None, "work": None}
            adapter = {**system.model_dump(), "class_path": "lmms_eval.models.simple.x.X"}
            meta = {**result["meta"], "adapter": adapter}
            results.write(root / job.result, {**result, "label": job.model.name, "meta": meta})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, tuple[Measurement, ...], str, list[Any]]:
    folder = tmp_path_factory.mktemp("systems")
    study = Study.of(CONFIG)
    with chdir(folder):
        write(study, folder)
        measurements = load(study)
        tables = [table(study, measurements) for table in (table1, table2, table3)]
        return study, measurements, "".join(report_pages(study, measurements).values()), tables


def test_a_system_stands_beside_its_printed_row(found: Any) -> None:
    rows = [row for row in found[3][0].rows if row.measurement and row.measurement.model == "BLIP-7B"]

    (row,) = rows
    assert (row.printed.name, row.printed.llm) == ("InstructBLIP", "Vicuna-7B")
    gqa = row.cells[0]
    assert (gqa.published, gqa.measured.samples) == ("49.2", 100)
    assert gqa.measured.difference is None
    assert row.budget.prefill is None
    assert not any(cell.measured.best for cell in row.cells if cell.measured)


def test_the_other_row_of_that_name_has_no_figure(found: Any) -> None:
    others = [row for row in found[3][0].rows if row.printed and row.printed.llm == "Vicuna-13B"]

    assert [row.printed.title for row in others] == ["InstructBLIP (13B)", "MiniGPT-4 (13B)"]
    assert [row.measurement for row in others] == [None, None]


def test_a_system_without_a_printed_row_stands_among_the_others(found: Any) -> None:
    for table, names in zip(found[3], (["Other"], ["BLIP-7B", "Other"], []), strict=True):
        groups = {
            title: [row.measurement.model for row in rows]
            for title, rows in table.groups
            if "adapters" in title
        }
        assert [name for rows in groups.values() for name in rows] == names


def test_the_methods_rows_are_as_they_were(found: Any, tmp_path: Path) -> None:
    without = Study.of(fake.CONFIG)
    with chdir(tmp_path):
        fake.write_study(without, tmp_path)
        before = table1(without, load(without))

    def methods(table: Any) -> list[Any]:
        return [
            (row.printed and row.printed.title, row.measurement and row.measurement.label)
            for title, rows in table.groups
            for row in rows
            if "adapters" not in title and not (row.measurement and row.measurement.system)
        ]

    missing = ("InstructBLIP (7B)", None)
    assert [one for one in methods(before) if one != missing] == methods(found[3][0])


def test_the_page_and_the_files_show_it(found: Any, tmp_path: Path) -> None:
    _, _, page, (table, *_) = found

    assert "BLIP-7B" in page
    assert "Other systems, asked by lmms-eval’s own adapters" in page
    assert "transformers, lmms-eval’s adapters" in page
    csv_files.write(csv_files.of_table(table), tmp_path / "table1.csv")
    lines = (tmp_path / "table1.csv").read_text("utf-8").splitlines()
    assert any("BLIP-7B" in line and "InstructBLIP" in line for line in lines)


def test_a_result_of_other_arguments_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Study.of(CONFIG), tmp_path)
    models = [*CONFIG["models"][:2], {**CONFIG["models"][2], "arguments": {"pretrained": "another/one"}}]

    with pytest.raises(
        ResultError, match=r"BLIP-7B/none/greedy.json: meta.adapter: is .*instructblip-vicuna-7b"
    ):
        load(Study.of({**CONFIG, "models": [*models, CONFIG["models"][3]]}))


def test_rows_of_one_name_have_titles_of_their_own() -> None:
    titles = [row.title for row in published.table1()]

    assert len(titles) == len(set(titles))
    assert [row.title for row in published.table2()] == [row.name for row in published.table2()]
