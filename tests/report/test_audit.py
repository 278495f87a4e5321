"""Each finding of the audit is the output of a check, which can also find the opposite."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from dyrate.cost.flops import CONVENTIONS, SCOPES, count, scope
from dyrate.cost.grid import Drop, percentages
from dyrate.cost.shapes import LLAVA
from dyrate.cost.work import schedule
from dyrate.paper import published
from dyrate.paper.audit import arithmetic, consistency
from dyrate.paper.audit.checks import audit
from dyrate.paper.published import PublishedRow
from dyrate.report import csv_files
from tests.report.test_page import text_of


@pytest.fixture
def printed(monkeypatch):
    """Change printed figures: `printed(table, name, group="", column=text)`; bold with `bold=(columns)`."""

    def change(table: str, name: str, group: str | None = None, bold=None, resolution=None, **cells: str):
        def rows() -> tuple[PublishedRow, ...]:
            return tuple(
                replace(
                    row,
                    values={**row.values, **cells},
                    bold=row.bold if bold is None else frozenset(bold),
                    resolution=resolution or row.resolution,
                )
                if row.name == name and group in (None, row.group)
                else row
                for row in before
            )

        before = getattr(published, table)()
        monkeypatch.setattr(published, table, rows)

    return change


def verdicts(findings, containing="") -> dict[tuple[str, str], str]:
    """Verdicts by (where, first cell), of the checks whose name contains a text."""
    return {(f.where, (f.cells or ("",))[0]): f.verdict for f in findings if containing in f.check}


def test_bold_that_is_not_the_best_is_found():
    found = verdicts(consistency.bold())

    assert found["Table II", "DyRate (LLaVA-1.5-7B), COCO2017: 110.54"] == "inconsistent"
    assert found["Table II", "DyRate (LLaVA-1.5-13B), Flickr30k: 79.38"] == "inconsistent"
    assert found["Table II", "DyRate (LLaVA-1.5-7B), NoCaps: 75.00"] == "consistent"
    assert found["Table I", "FastV, VizWiz: 54.4"] == "consistent"
    assert found["Table I", "DyRate, VQA: 45.7"] == "inconsistent"


def test_bold_that_is_the_best_is_not(printed):
    printed("table2", "FastV(K=3,R=0.5)", "LLaVA-1.5-7B", coco2017_cider="110.00")

    found = verdicts(consistency.bold())

    assert found["Table II", "DyRate (LLaVA-1.5-7B), COCO2017: 110.54"] == "consistent"


def test_tables_that_repeat_each_other_agree_or_not(printed):
    check = "two tables"
    assert set(verdicts(consistency.repeated(), check).values()) == {"consistent"}

    printed("table3", "DyRate", "LLaVA-1.5-7B", nocaps_cider="75.10")

    (finding,) = (f for f in consistency.repeated() if check in f.check)
    assert finding.verdict == "inconsistent"
    assert finding.cells == (
        "DyRate (LLaVA-1.5-7B), NoCaps: 75.10",
        "DyRate (LLaVA-1.5-7B), NoCaps: 75.00",
    )
    assert "9 of 10" in finding.evidence


def test_the_strategy_ablation_prints_another_columns_scores(printed):
    check = "Table II's NoCaps"
    assert set(verdicts(consistency.repeated(), check).values()) == {"inconsistent"}
    assert "Flickr30k: 105.57" in next(f.evidence for f in consistency.repeated() if check in f.check)

    printed("strategy", "LLaVA", nocaps_cider="74.89")
    printed("strategy", "FastV", nocaps_cider="1.00")

    found = verdicts(consistency.repeated(), check)
    assert list(found.values()) == ["consistent", "cannot be told"]


def test_the_greedy_score_is_none_of_dyrates(printed):
    check = "greedy score"
    assert set(verdicts(consistency.repeated(), check).values()) == {"cannot be told"}

    printed("decoding", "Greedy", nocaps_cider="113.23")

    assert set(verdicts(consistency.repeated(), check).values()) == {"consistent"}


def test_columns_that_only_agree_when_crossed_look_exchanged(printed):
    def by_check() -> dict[str, str]:
        return {f.check: f.verdict for f in consistency.exchanged()}

    crossed = "NoCaps and Flickr30k are in the same order for both models"
    assert list(by_check().values()) == ["inconsistent", "consistent", "consistent"]
    assert by_check()[crossed] == "inconsistent"

    for row in published.table2():
        if row.group == "LLaVA-1.5-7B":
            nocaps, flickr = row.values["nocaps_cider"], row.values["flickr30k_cider"]
            printed("table2", row.name, row.group, nocaps_cider=flickr, flickr30k_cider=nocaps)

    assert by_check()[crossed] == "consistent"


def test_accuracies_of_a_thousand_and_a_resolution_of_33_are_found(printed):
    magnitudes = [f for f in consistency.magnitudes() if f.verdict == "inconsistent"]
    assert [f.where for f in magnitudes] == ["Table I", "Table III"]
    assert all("MME" in cell for cell in magnitudes[0].cells)
    (resolution,) = consistency.resolutions()
    assert "with a digit more it would be 336" in resolution.evidence

    printed("table1", "VoCo-LLaMA", resolution="336")
    printed("table3", "Original", tflops_percent="8.48")

    assert not list(consistency.resolutions())
    assert [f.where for f in consistency.magnitudes() if f.verdict == "inconsistent"] == ["Table I"]


def test_figures_rounded_otherwise_are_named():
    assert [f.cells for f in consistency.scales()] == [
        ("TokenPacker, POPE: 87", "VisionZip, POPE: 84.93"),
        ("SparseVLM, MME: 1721", "VisionZip, MME: 1834"),
    ]


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", SCOPES)
def test_the_grid_is_the_ledger_in_closed_form(convention, name):
    shape, named = LLAVA["LLaVA-1.5-7B"], CONVENTIONS[convention]

    def ledger(text: int, new: int) -> float:
        costs = []
        for layer, kept in ((32, 576), (2, 288)):
            prompt = [text + (576 if index < layer else kept) for index in range(32)]
            work = scope(schedule(prompt, new - 1, patches=576), name)
            costs.append(count(work, shape, named).total)
        return 100 * costs[1] / costs[0]

    found = percentages(shape, Drop(2, 0.5), convention, name, np.array([5.0, 60.0]), np.array([1.0, 40.0]))

    expected = [[ledger(text, new) for new in (1, 40)] for text in (5, 60)]
    np.testing.assert_allclose(np.broadcast_to(found, (2, 2)), expected, rtol=1e-12)


def test_a_percentage_that_a_setting_gives_is_found_again():
    """Made with a known setting; a second one made with another setting contradicts it."""
    grid = percentages(
        LLAVA["LLaVA-1.5-7B"], Drop(2, 0.5), "gated_3ndm", "prefill", arithmetic.TEXT, np.ones(1)
    )
    mine = "LLaVA-1.5-7B", Drop(2, 0.5), f"{grid[59, 0]:.2f}"
    other = "LLaVA-1.5-7B", Drop(2, 0.5), f"{grid[59, 0] + 3:.2f}"

    found = arithmetic.search([mine])

    assert ("gated_3ndm", "prefill", 60) in [(s.convention, s.scope, s.text_tokens) for s in found.settings]
    assert not arithmetic.search([mine, other]).settings
    assert arithmetic.search([mine, other]).deviation == pytest.approx(1.5, abs=0.1)


def test_each_percentage_has_its_setting_but_a_model_has_none():
    findings = list(arithmetic.percentages_of_methods())

    assert [f.verdict for f in findings if f.check.startswith("A convention")] == ["consistent"] * 6
    assert [f.verdict for f in findings if f.check.startswith("One setting")] == ["inconsistent"] * 5


def test_percentages_of_another_depth_are_found(printed):
    check = "different depth"
    by_name = {f.cells[0].partition(" (")[0]: f for f in arithmetic.same_for_different_models()}
    assert by_name["VTW(K=16,R=1)"].verdict == "inconsistent"
    assert by_name["VTW(K=16,R=1)"].evidence.endswith("if LLaVA-1.5-13B dropped from layer 20")

    printed("table3", "VTW(K=16,R=1)", "LLaVA-1.5-13B", tflops_percent="45.10")

    assert not [f for f in arithmetic.same_for_different_models() if "VTW" in f.cells[0] and check in f.check]


def test_fixed_and_depth_prune_look_exchanged_only_as_printed(printed):
    assert list(arithmetic.strategies())[1].verdict == "inconsistent"
    assert "as if FP and DP were exchanged" in list(arithmetic.strategies())[1].evidence

    printed("strategy", "Ours(FP)", flops_percent="58.10")
    printed("strategy", "Ours(DP)", flops_percent="28.80")

    assert list(arithmetic.strategies())[1].verdict == "consistent"
    assert "exchanged" not in list(arithmetic.strategies())[1].evidence


def test_dyrates_percentage_cannot_be_told(printed):
    assert [f.verdict for f in arithmetic.dyrates_percentage()] == ["cannot be told"] * 2

    printed("table3", "DyRate", tflops_percent="2.00")

    assert [f.verdict for f in arithmetic.dyrates_percentage()] == ["inconsistent"] * 2


def test_half_a_unit_of_the_last_decimal_that_says_something():
    assert [arithmetic.half_unit(text) for text in ("57.90", "33.33", "100.0")] == [0.05, 0.005, 0.5]


def test_the_page_and_the_csv_have_every_finding(rendered, tmp_path):
    findings = audit()
    text = text_of(rendered[1]["audit.html"])
    for finding in findings:
        assert finding.check in text

    csv_files.write(csv_files.LISTED["audit"].sheet(findings), tmp_path / "audit.csv")

    lines = list(csv.DictReader((tmp_path / "audit.csv").open()))
    assert [line["verdict"] for line in lines] == [f.verdict for f in findings]
    assert {line["verdict"] for line in lines} == {"consistent", "inconsistent", "cannot be told"}
