"""Table III and the ablations, on the made-up study with DyRate."""

import csv
import json
import re
from dataclasses import replace

import pytest

from dyrate.analysis.ablations import changes, predictor_table, replayed
from dyrate.analysis.contents import gather
from dyrate.analysis.measurements import load
from dyrate.analysis.paired import Answers
from dyrate.analysis.tables import table2
from dyrate.evaluation.results import Difference
from dyrate.report import csv_files
from dyrate.report.page import report_pages, table_page
from dyrate.study import Study
from tests.report import fake
from tests.report.test_page import text_of


def table(compared, key):
    return next(found for found in compared[2].tables if found.key == key)


def texts(row, found):
    return {
        column.key: (cell.measured, cell.published) for column, cell in row.text_pairs(found.text_columns)
    }


def labels(rows):
    return [
        (r.printed.name if r.printed else None, r.measurement.label if r.measurement else None) for r in rows
    ]


def test_only_the_main_group_is_in_tables_1_to_3(compared):
    for key in ("table1", "table2", "table3"):
        groups = {row.measurement.group for row in table(compared, key).rows if row.measurement}
        assert groups == {"main"}, key


def test_dyrates_rows_stand_beside_the_papers(compared):
    for key in ("table1", "table2", "table3"):
        found = [row for row in table(compared, key).rows if row.printed and row.printed.name == "DyRate"]
        assert found
        assert all(row.measurement.label == "DyRate (predictor=default, K=2)" for row in found)


def test_table_3_says_whether_the_rate_is_predicted_and_what_the_paper_spends(compared):
    found = table(compared, "table3")
    rows = {
        row.printed.name: texts(row, found)
        for row in dict(found.groups)["LLaVA-1.5-7B, beside it testbed-s"]
        if row.printed
    }

    percent, printed = rows["DyRate"].pop("tflops_percent")
    assert 0 < float(percent) < 100
    assert printed == "33.33"
    assert rows["DyRate"] == {
        "latency_ms": (None, "40.13"),
        "auto_rate": ("yes", "yes"),
    }
    assert rows["FastV(K=2,R=0.5)"]["auto_rate"] == ("no", "no")
    assert found.footnotes[0].startswith("Here: convention flops")
    assert found.footnotes[1].startswith("Not measured on this study’s models")


def test_table_3s_csv_has_fields_for_both(compared, tmp_path):
    csv_files.write(csv_files.of_table(table(compared, "table3")), tmp_path / "t.csv")

    lines = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    dyrate = next(
        line for line in lines if line["published_row"] == "DyRate" and line["model"] == "testbed-s"
    )
    assert (dyrate["auto_rate"], dyrate["published_latency_ms"], dyrate["latency_ms"]) == ("yes", "40.13", "")
    assert float(dyrate["prefill_share"]) == pytest.approx((2 + 6 * 0.4) / 8)
    assert {line["benchmark"] for line in lines} == {"nocaps"}


def test_a_schedule_predicts_no_rate(compared):
    rows = {m.label: m.predicts_rate for m in compared[1] if m.method == "dyrate"}

    assert rows["DyRate (predictor=default, K=2)"] is True
    assert rows["DyRate (predictor=default, K=2, rates=schedule)"] is False


def test_strategies_stand_beside_the_papers_names(compared):
    found = table(compared, "ablation_strategy")

    assert labels(found.groups[0][1]) == [
        ("LLaVA", None),
        ("FastV", None),
        ("Ours(FP)", None),
        ("Ours(DP)", "depth_prune"),
    ]
    assert [name for name, _ in found.groups] == ["As printed, beside it testbed-s", "On testbed-m"]
    percent, printed = texts(found.groups[0][1][3], found)["flops_percent"]
    assert 0 < float(percent) < 100
    assert printed == "58.10"


def test_decodings_are_shown_with_dyrate_and_without(compared):
    found = table(compared, "ablation_decoding")
    rows = {
        name: [(row.measurement.decoding) for row in rows if row.measurement] for name, rows in found.groups
    }

    assert rows == {
        "As printed, beside it testbed-s": ["greedy", "beam-2"],
        "Unpruned on testbed-s": ["greedy", "beam-2"],
        "Unpruned on testbed-m": ["greedy", "beam-2"],
        "DyRate (predictor=default, K=2) on testbed-m": ["greedy", "beam-2"],
    }
    assert [column.benchmark for column in found.columns] == fake.CAPTIONS


def test_a_predictors_row_says_what_was_varied(compared):
    found = table(compared, "ablation_predictor")
    rows = {row.measurement.label: texts(row, found) for row in found.groups[0][1]}

    assert rows["DyRate (predictor=gru, K=2)"] == {
        "varied": ("kind", None),
        "value_here": ("gru", None),
        "value_default": ("mlp", None),
    }
    assert rows["DyRate (predictor=lean, K=2)"]["varied"] == ("lambda", None)
    assert rows["DyRate (predictor=default, K=2, rates=schedule)"]["varied"] == ("rates", None)
    assert rows["DyRate (predictor=default, K=2)"]["varied"] == ("nothing: the default", None)


def row(compared, text):
    return next(m for m in compared[1] if text in m.label and m.model == "testbed-s")


def recipe(m, **keys):
    """The row as if its predictor's recipe said so."""
    predictor = replace(m.job.predictor, recipe={**m.job.predictor.recipe, **keys})
    return replace(m, job=replace(m.job, predictor=predictor))


def test_what_has_no_effect_is_not_listed_as_varied(compared):
    ours = row(compared, "predictor=default")
    learned = recipe(ours, ranking="mlp", ranking_steps=150, ranking_hidden=8)
    window = recipe(ours, kind="window", history=8)

    assert changes(recipe(ours, ranking="attention"), learned) == {"ranking": ("attention", "mlp")}
    assert changes(learned, ours) == {
        "ranking": ("mlp", "attention"),
        "ranking_steps": ("150", "–"),
        "ranking_hidden": ("8", "–"),
    }
    assert changes(window, ours) == {"kind": ("window", "mlp"), "history": ("8", "–")}
    assert changes(recipe(ours, kind="linear"), window) == {"kind": ("linear", "window")}


def test_a_key_that_a_recipe_leaves_out_has_its_default(compared):
    ours = row(compared, "predictor=default")

    assert changes(recipe(ours, rates=5), ours) == {"K_r": ("5", "20")}
    assert changes(recipe(ours, prune_prefill=False), ours) == {"prune_prefill": ("no", "yes")}


def spending(m, prefill, decode):
    found = json.loads(json.dumps(m.result))
    for benchmark in found["benchmarks"].values():
        benchmark["visual_tokens"] |= {"prefill": [fake.V * prefill] * 8, "decode": [fake.V * decode] * 8}
    return replace(m, result=found)


def test_replayed_rates_are_judged_only_at_the_budget_of_predicted_ones(compared, monkeypatch):
    monkeypatch.chdir(compared[3])
    default = spending(row(compared, "predictor=default"), 0.5, 0.4)
    replay = next(m for m in compared[1] if "rates=schedule" in m.label and m.model == "testbed-s")

    def told(prefill, decode):
        (text,) = replayed([default, spending(replay, prefill, decode)], Answers(0))
        return text

    same = told(0.51, 0.39)
    assert "At the same budget, within 2 points: GQA 51% | 39% instead of 50% | 40%: " in same
    assert "NoCaps 51% | 39%" in same
    assert "cannot answer" not in same

    apart = told(0.6, 0.4)
    assert "At the same budget" not in apart
    assert "Not at the same budget: GQA 60% | 40% instead of 50% | 40%; NoCaps" in apart
    assert "cannot answer" in apart

    # One-token answers spend nothing at decode, so decode alone parts captions.
    assert "Not at the same budget: NoCaps" in told(0.5, 0.5)


def test_the_predictor_table_says_what_its_replayed_rates_can_tell(compared):
    found = table(compared, "ablation_predictor")

    assert "rates=schedule) replays mean rates" in found.footnotes[0]
    assert "not those at equal budget" in found.lede


def test_the_predictor_table_says_what_scaled_features_learn_with(compared, monkeypatch):
    monkeypatch.chdir(compared[3])
    study, measurements = compared[0], list(compared[1])
    place, gru = next((i, m) for i, m in enumerate(measurements) if "gru" in m.label)
    measurements[place] = recipe(gru, estimator="scaled_features")

    (told,) = predictor_table(study, measurements, Answers(0)).footnotes

    assert "a token multiplied by zero still draws attention" in told
    assert "multiplied by zero" not in table(compared, "ablation_predictor").footnotes[0]


def test_its_differences_are_to_the_default_of_the_same_model(compared, monkeypatch):
    monkeypatch.chdir(compared[3])
    found = table(compared, "ablation_predictor")
    default, *others = dict(found.groups)["On testbed-s, against DyRate (predictor=default, K=2)"]
    gru = next(row for row in others if "gru" in row.measurement.label)

    assert all(cell.measured.difference is None for cell in default.cells)
    expected: Difference = Answers(0).difference(gru.measurement, default.measurement, "gqa")
    assert gru.cells[0].measured.difference == expected["value"]
    assert found.against == "the default DyRate of the same model"


def test_predictors_that_differ_in_nothing_go_by_their_names(compared):
    rows = [m for m in compared[1] if m.method == "dyrate" and m.model == "testbed-s"]
    lean = next(m for m in rows if m.job.method.predictor == "lean")

    assert changes(lean, lean) == {"predictor": ("lean", "lean")}


def test_the_tables_of_the_ablation_name_only_its_benchmarks(compared):
    assert [c.benchmark for c in table(compared, "ablation_predictor").columns] == ["gqa", "nocaps"]


@pytest.mark.slow
def test_a_study_without_ablations_leaves_their_tables_out_with_a_sentence(study, measurements, tmp_path):
    pages = report_pages(study, measurements)
    page = text_of(pages["results.html"])
    left = gather(study, measurements)

    assert "Left out, because the study has no row for it: Ablation: strategy (" in page
    assert "DyRate at equal budget" not in "".join(pages.values())
    assert (left.standings, left.claims) == ((), ())
    for found in left.tables[3:]:
        assert "The study has no row for this table." in text_of(table_page(found, study, measurements))
        csv_files.write(csv_files.of_table(found), tmp_path / "t.csv")
        assert (tmp_path / "t.csv").read_text().startswith("group,model,method")


def test_without_a_default_dyrate_there_is_no_predictor_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = [fake.CONFIG["methods"][0], {**fake.DYRATE, "group": "predictor"}]
    study = Study.of({**fake.WITH_DYRATE, "methods": methods})
    fake.write_study(study, tmp_path, images=False)

    assert not gather(study, load(study)).tables[-1].measured


@pytest.fixture(scope="module")
def pages(rendered):
    return rendered[1]


def test_the_pages_have_every_table_and_the_comparison(pages):
    text = text_of(pages["results.html"])

    for title in ("Table III", "Ablation: strategy", "Ablation: decoding", "Ablation: predictor"):
        assert title in text
    assert "DyRate at equal budget" in text_of(pages["budget.html"])
    assert "Left out" not in text
    for page in pages.values():
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
    assert sum(page.count("<svg") for page in pages.values()) > 2 * 12


def test_what_a_row_was_not_evaluated_on_is_a_dash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = [{"name": "none"}, {"name": "fastv", "layer": 2, "benchmarks": ["nocaps"]}]
    study = Study.of({**fake.CONFIG, "models": fake.CONFIG["models"][:1], "methods": methods})
    fake.write_study(study, tmp_path, images=False)
    measurements = load(study)

    page = table_page(table2(study, measurements), study, measurements)

    assert page.count('<td class="m first">–</td>') == 2
