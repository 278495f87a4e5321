import csv
import json
from pathlib import Path

import pytest

from dyrate.analysis.measurement import units
from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table1, table2
from dyrate.paper import published
from dyrate.paper.audit.finding import Finding
from dyrate.report import csv_files
from dyrate.study import Study
from tests.report import fake


def row(table, name, model="testbed-s"):
    """The row of a method's label on a model."""
    found = [
        r for r in table.rows if r.measurement and (r.measurement.label, r.measurement.model) == (name, model)
    ]
    assert len(found) == 1
    return found[0]


def cell(table, name, benchmark, model="testbed-s"):
    return dict(zip([c.benchmark for c in table.columns], row(table, name, model).cells, strict=True))[
        benchmark
    ]


def test_measured_and_published_stand_in_one_cell(study, measurements):
    gqa = cell(table1(study, measurements), "FastV (K=2, R=0.5)", "gqa")

    assert gqa.published == "60.3"
    assert gqa.measured.low < gqa.measured.value < gqa.measured.high
    assert gqa.measured.samples == 100


def test_rows_that_were_not_run_are_published_only(study, measurements):
    rows = [r for r in table1(study, measurements).rows if r.printed and not r.measurement]

    assert {"InstructBLIP", "Qwen-VL", "SparseVLM", "DyRate"} <= {r.printed.name for r in rows}
    assert not [c for r in rows for c in r.cells if c.measured]


def test_another_setting_of_a_method_follows_it_without_a_published_figure(study, measurements):
    reduction = dict(table1(study, measurements).groups)["Token reduction"]
    names = [r.measurement.label if r.measurement else r.printed.name for r in reduction]

    assert names == [
        "FastV (K=2, R=0.5)",
        "FastV (K=3, R=0.5)",
        "VTW (K=4)",
        "SparseVLM",
        "VisionZip",
        "DyRate",
    ]
    assert not [c for c in reduction[1].cells if c.published]


def test_controls_and_the_other_model_have_groups_of_their_own(study, measurements):
    groups = dict(table1(study, measurements).groups)

    assert len(groups["Controls"]) == 4
    assert len(groups["On testbed-m, in the place of LLaVA-1.5-13B: not in the paper's Table I"]) == 8


def test_table_2_pairs_each_model_with_its_stand_in(study, measurements):
    table = table2(study, measurements)

    assert [len(rows) for _, rows in table.groups] == [9, 9]
    assert cell(table, "VTW (K=6)", "nocaps", "testbed-m").published == "95.21"
    assert cell(table, "FastV (K=3, R=0.5)", "coco2017").published == "110.80"


def test_best_is_marked_per_model_and_column(study, measurements):
    table = table1(study, measurements)
    for i, column in enumerate(table.columns):
        for model in ("testbed-s", "testbed-m"):
            scores = [
                r.cells[i].measured for r in table.rows if r.measurement and r.measurement.model == model
            ]
            best = max(score.value for score in scores)
            assert {score.value for score in scores if score.best} == {best}, (column, model)


def test_textvqa_stands_beside_vqa_whose_published_figures_it_explains(study, measurements):
    table = table1(study, measurements)

    assert cell(table, "Unpruned", "vqav2").published == "58.2"
    assert cell(table, "Unpruned", "textvqa").published is None
    assert "TextVQA" in table.notes["b"]


def change(path: Path, benchmark: str, **difference):
    result = json.loads(path.read_text())
    found = result["benchmarks"][benchmark]
    found["difference"] = {found["primary"]: difference}
    path.write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        ({"value": -3.0, "low": -5.0, "high": -1.0}, "worse"),
        ({"value": 3.0, "low": 1.0, "high": 5.0}, "better"),
        ({"value": -3.0, "low": -7.0, "high": 1.0}, "open"),
        ({"value": -3.0, "low": -6.0, "high": 0.0}, "open"),
        ({"value": -3.0, "low": None, "high": None}, None),
    ],
)
def test_only_an_interval_without_zero_is_a_verdict(study, measurements, difference, verdict):
    path = Path("results/testbed/testbed-s/fastv-layer=2-rate=0.5/greedy.json")
    change(path, "gqa", **difference)

    table = table1(study, load(study))

    assert cell(table, "FastV (K=2, R=0.5)", "gqa").measured.verdict == verdict


def test_budget_is_the_mean_over_layers_as_share_of_the_unpruned_count(study, measurements):
    table = table1(study, measurements)

    assert row(table, "FastV (K=2, R=0.5)").budget.prefill == pytest.approx((2 + 6 * 0.5) / 8)
    assert row(table, "Unpruned", "testbed-m").budget.decode == 1
    assert row(table, "text_only").budget.prefill == 0


def test_a_smaller_image_is_measured_against_the_whole_one(study, measurements):
    path = Path("results/testbed/testbed-s/downsample-rate=0.5/greedy.json")
    result = json.loads(path.read_text())
    for found in result["benchmarks"].values():
        found["visual_tokens"] = {"total": 72.0, "prefill": [72.0] * 8, "decode": None}
    path.write_text(json.dumps(result))

    budget = row(table1(study, load(study)), "downsample (R=0.5)").budget

    assert budget.prefill == 0.5
    assert budget.decode is None


def test_a_result_of_another_producer_is_a_row(study, measurements, tmp_path):
    theirs = json.loads(Path(study.results[0]).read_text())
    theirs |= {"method": {"name": "theirs"}, "label": "Theirs", "model": "their-model"}
    theirs["benchmarks"] = {"gqa": {**theirs["benchmarks"]["gqa"], "difference": None, "visual_tokens": None}}
    Path("theirs.json").write_text(json.dumps(theirs))
    study = Study.of({**study.config, "external": ["theirs.json"]})

    table = table1(study, load(study))

    assert row(table, "Theirs", "their-model").budget.prefill is None
    assert [c.measured is not None for c in row(table, "Theirs", "their-model").cells] == [True] + [False] * 7
    assert "On their-model" in dict(table.groups)


def test_only_the_first_decoding_stands_beside_the_paper(study, tmp_path):
    study = Study.of({**study.config, "decodings": [{"name": "greedy"}, {"name": "beam-2"}]})
    fake.write_study(study, tmp_path, images=False)

    table = table2(study, load(study))

    paired = [r.measurement.decoding for r in table.rows if r.printed and r.measurement]
    assert set(paired) == {"greedy"}


def test_columns_say_on_how_many_items_they_rest(study, measurements):
    counts = dict(
        zip(
            [c.benchmark for c in table1(study, measurements).columns],
            table1(study, measurements).counts,
            strict=True,
        )
    )

    assert counts["gqa"] == "n = 100"
    assert counts["mmb"] == "n = 25 questions"
    assert counts["mme"] == "n = 50 pairs"
    assert table2(study, measurements).counts == ("n = 100 images",) * 3


def test_items_that_a_producer_does_not_count_are_not_made_up(study, measurements):
    found = {b: {**measurements[0].result["benchmarks"][b]} for b in ("gqa", "mmb")}
    for benchmark in found.values():
        del benchmark["units"]

    assert units("gqa", found["gqa"]) == 100
    assert units("mmb", found["mmb"]) is None


def test_a_printed_row_that_the_model_does_not_have_costs_no_measured_one(study, tmp_path):
    # "Original" is Table II's; LLaVA v1.5 is Table I's, among the models that are no reduction.
    methods = [{"name": "none", "published": {"table1": "LLaVA v1.5", "table2": "Original"}}]
    study = Study.of({**study.config, "methods": methods})
    fake.write_study(study, tmp_path, images=False)
    measurements = load(study)
    missing = [row for row in published.table2() if (row.group, row.name) != ("LLaVA-1.5-13B", "Original")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "table2", lambda: tuple(missing))
        table = table2(study, measurements)

    assert row(table, "Unpruned", "testbed-m").printed is None
    assert row(table, "Unpruned", "testbed-s").printed is not None


def test_no_text_in_a_csv_is_a_formula(study, measurements, tmp_path):
    hostile = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1"]
    findings = [Finding(text, text, (text,), "consistent", text) for text in hostile]
    csv_files.write(csv_files.LISTED["audit"].sheet(findings), tmp_path / "t.csv")
    lines = list(csv.DictReader((tmp_path / "t.csv").open(newline="")))
    assert [line["evidence"] for line in lines] == [f"'{text}" for text in hostile]

    path = Path(study.results[1])
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "label": "=HYPERLINK(1)"}))
    csv_files.write(csv_files.of_table(table2(study, load(study))), tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert ",'=HYPERLINK(1)," in text
    assert ",=HYPERLINK(1)," not in text
    assert ",-" in text, "numbers keep their sign"


def test_csv_has_one_line_per_row_and_benchmark(study, measurements, tmp_path):
    csv_files.write(csv_files.of_table(table2(study, measurements)), tmp_path / "t.csv")

    lines = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(lines) == 3 * 18
    vtw = next(
        line for line in lines if line["published_row"] == "VTW(K=16,R=1)" and line["benchmark"] == "nocaps"
    )
    assert (vtw["model"], vtw["method"], vtw["published"]) == ("testbed-s", "VTW (K=4)", "44.54")
    assert float(vtw["low"]) < float(vtw["value"]) < float(vtw["high"])
    assert float(vtw["difference_high"]) < 0
    assert vtw["result"] == "results/testbed/testbed-s/vtw-layer=4/greedy.json"
    assert (vtw["samples"], vtw["units"]) == ("100", "100")
    dyrate = [line for line in lines if line["published_row"] == "DyRate"]
    assert {line["value"] for line in dyrate} == {""}
    assert {line["published_bold"] for line in dyrate} == {"yes"}
