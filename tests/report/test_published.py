import csv

import pytest

from dyrate.errors import DyrateError
from dyrate.paper import published


def test_table_1_is_in_print_order_and_groups():
    rows = published.table1()

    assert len(rows) == 16
    assert [row.group for row in rows].count("Independently designed") == 5
    assert [row.name for row in rows if row.group == "LLaVA-derived"][-1] == "LLaVA v1.5"
    assert [row.name for row in rows if row.group == "Token reduction"] == [
        "FastV",
        "VTW",
        "SparseVLM",
        "VisionZip",
        "DyRate",
    ]


def test_figures_are_as_printed():
    vtw = next(row for row in published.table1() if row.name == "VTW")
    fastv = next(row for row in published.table2() if row.name == "FastV(K=3,R=0.5)")

    assert vtw.values["vqa_em"] == "16.1"
    assert vtw.llm == "Vicuna-7B"
    assert fastv.values["flickr30k_cider"] == "105.00"
    assert next(row for row in published.table1() if row.name == "SparseVLM").values["vizwiz_em"] is None


def test_bold_is_as_printed_also_where_it_is_not_the_best():
    dyrate = published.table2()[-1]

    assert dyrate.bold == {"nocaps_cider", "flickr30k_cider", "coco2017_cider"}
    assert float(dyrate.values["flickr30k_cider"]) < float(published.table2()[5].values["flickr30k_cider"])


def test_every_figure_is_a_number():
    for path in published.FOLDER.glob("*.csv"):
        with path.open(newline="") as stream:
            for line in csv.DictReader(stream):
                for name, text in line.items():
                    if text and name.split("_")[-1] in ("em", "acc", "score", "cider", "percent", "ms"):
                        float(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("105.57,100.00", "105,57,100.00", r"line 2: 4 cells under 3 columns"),
        ("105.57", "1O5.57", r"line 2: nocaps_cider: '1O5\.57' is no number"),
        ("LLaVA,105.57,100.00\n", "", "3 rows; the paper prints 4"),
    ],
)
def test_printed_figures_that_were_changed_in_shape_are_refused(tmp_path, monkeypatch, old, new, message):
    text = (published.FOLDER / "ablation_strategy.csv").read_text()
    assert old in text
    (tmp_path / "ablation_strategy.csv").write_text(text.replace(old, new))
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(DyrateError, match=rf"ablation_strategy\.csv: {message}"):
        published.strategy.__wrapped__()
