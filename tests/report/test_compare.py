"""`dyrate compare`: only what moved beyond its paired interval is told as moved, and nothing is left out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dyrate.analysis.two_studies import compare
from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation import answers
from tests.report import fake

A, B = Path("results/smoke"), Path("after/results/smoke")
FASTV = "testbed-s/fastv-layer=2-rate=0.5/greedy"


@pytest.fixture
def two(small):
    shutil.copytree(A, B)
    return small


def rewrite(change, place=B, stem=FASTV):
    """The answers of a result, changed: `change(benchmark, sample)`, None for no such sample."""
    path = place / f"{stem}.answers.parquet"
    found = answers.read(path)
    kept = {b: [new for s in samples if (new := change(b, s))] for b, samples in found.items()}
    answers.write(path, kept)


def edit(change, place=B, stem=FASTV):
    path = place / f"{stem}.json"
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def test_nothing_moves_between_equal_results(two):
    found = compare(A, B)

    assert len(found.cells) == 3 * 11
    assert (found.moved, found.apart, found.changed) == ((), (), ())


def test_what_else_differs_is_told(two, capsys):
    edit(lambda result: result["meta"].update(device="NVIDIA H200", hashes={"weights": "others"}))

    assert main(["compare", str(A), str(B)]) == 0
    assert "Made with other weights of testbed-s; device of testbed-s." in capsys.readouterr().out


def test_a_moved_cell_is_told_in_both_directions(two, capsys):
    def right(docs):
        return lambda b, s: replace(s, scores={"exact_match": float(s.doc_id in docs)}) if b == "gqa" else s

    rewrite(right({7}), A)
    rewrite(right({0, 1, 2, 3, 4, 5, 7}), B)

    (forth,), (back,) = compare(A, B).moved, compare(B, A).moved

    assert (forth.benchmark, forth.after.method, forth.units) == ("gqa", "fastv", fake.DOCS)
    assert (forth.verdict, back.verdict) == ("better", "worse")
    assert forth.difference["value"] == -back.difference["value"] == pytest.approx(75)
    assert main(["compare", str(A), str(B)]) == 0
    out = capsys.readouterr().out
    assert "1 of 33 cells moved beyond their paired interval" in out
    assert out.count("▲ better") == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda: edit(lambda r: r["benchmarks"]["gqa"].update(samples=7, units=7)),
            "samples in results/smoke, 7 in",
        ),
        (lambda: edit(lambda r: r["benchmarks"].pop("gqa")), "only in results/smoke"),
        (
            lambda: rewrite(lambda b, s: replace(s, doc_id=s.doc_id + 1) if b == "gqa" else s),
            "the two did not answer the same samples",
        ),
        (
            lambda: rewrite(lambda b, s: replace(s, prompt="else") if b == "gqa" else s),
            "the two were not asked the same",
        ),
        (
            lambda: edit(lambda r: r["meta"].update(hashes={"data": {"gqa": "other"}})),
            "its data have the hash other, the other's None",
        ),
    ],
)
def test_what_cannot_be_compared_is_listed_with_its_reason(two, damage, said):
    damage()

    (apart,) = compare(A, B).apart

    assert apart.what == "testbed-s fastv-layer=2-rate=0.5 greedy, gqa"
    assert said in apart.why


def test_results_of_one_side_alone_are_listed(two):
    shutil.rmtree(B / "testbed-s/random-layer=2-rate=0.5")

    (apart,) = compare(A, B).apart

    assert (apart.what, apart.why) == ("testbed-s random-layer=2-rate=0.5 greedy", "only in results/smoke")


def test_without_answers_nothing_is_compared_and_each_is_told(two):
    (B / f"{FASTV}.answers.parquet").unlink()

    found = compare(A, B)

    assert len(found.apart) == 11
    assert {one.why for one in found.apart} == {f"there is no {B / FASTV}.answers.parquet"}


@pytest.mark.parametrize(
    ("place", "said"), [("nowhere", "there is no such folder of results"), (".", "holds no results")]
)
def test_a_place_without_results_is_an_error(two, place, said, capsys):
    assert main(["compare", str(A), place]) == 2
    assert said in capsys.readouterr().err


def test_studies_with_nothing_in_common_are_an_error(two):
    (B / "testbed-s").rename(B / "testbed-l")

    with pytest.raises(DyrateError, match="have no result in common"):
        compare(A, B)


def test_the_page_has_every_cell_and_no_markup_of_others(two):
    edit(lambda r: r.update(label="<script>alert(1)</script>"))
    (A / "study.json").write_text("{}")

    assert main(["compare", str(A / "study.json"), str(B), "--output", "moved.html"]) == 0

    page = Path("moved.html").read_text()
    assert "<script" not in page
    assert page.count("<caption>") == 1
    assert page.count("&lt;script&gt;") == 11
