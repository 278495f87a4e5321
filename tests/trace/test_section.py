"""The report's section on attention: its words, its pictures, and when it stays away."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape

from dyrate.analysis.attention_trends import sentences
from dyrate.analysis.measurements import load
from dyrate.report import attention_figures as figures
from dyrate.report.attention import attention
from dyrate.report.page import report_pages
from dyrate.study import Study
from dyrate.trace.files import Summary, TraceError, TraceFiles, read_summary, write_mass, write_summary
from tests.report import fake as results
from tests.trace import fake

REPOSITORY = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>\"'&$x$"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    return Study.read(REPOSITORY / "config/smoke.yaml")


def put(changes: dict[str, Any] | None = None) -> Summary:
    """A trace in the study's place."""
    summary: Any = {**fake.summary("testbed-s"), **(changes or {})}
    write_summary(TraceFiles.in_study("smoke", "testbed-s").summary, summary)
    return summary


@pytest.mark.slow
def test_without_a_trace_there_is_no_section(study: Study) -> None:
    assert attention(study) is None
    results.write_study(study, Path(), images=False)
    pages = report_pages(study, load(study))
    assert "Where attention goes" not in "".join(pages.values())
    assert 'href="attention.html"' not in "".join(pages.values())


@pytest.mark.slow
def test_the_page_shows_the_figures_of_the_trace(study: Study) -> None:
    summary = put()
    results.write_study(study, Path(), images=False)
    pages = report_pages(study, load(study))
    page = pages["attention.html"]
    trends = summary["benchmarks"]["nocaps"]["trends"]
    assert trends is not None
    change = f"{100 * trends['img']['difference']['value']:+.1f}".replace("-", "−")
    section = page.partition('<section id="attention">')[2].partition("</section>")[0]
    assert f"<td>{change}<span" in section
    assert "does not apply: answers too short to grow" in section
    assert all('href="attention.html"' in one for one in pages.values())
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert pages == report_pages(study, load(study))


def words(fall: float) -> str:
    return " ".join(sentences(list(fake.summary("testbed-s", fall=fall)["benchmarks"].values())))


def test_the_words_follow_the_figures() -> None:
    assert "decays on 1 of 1 benchmark whose answers grow:" in words(0.04)
    assert "decays on 0 of 1 benchmark whose answers grow:" in words(-0.01)
    assert "makes room" not in words(0.04)  # it loses against the rest of the prompt as well
    # 0.7 - 0.01 t, of a prompt that gets 1 - 0.02 t: the part rises, the mass falls
    assert "On 1 benchmark attention on the image falls" in words(0.01)


def test_monotone_answers_are_counted_in_words() -> None:
    summary = fake.summary("testbed-s")
    found = summary["benchmarks"]["nocaps"]
    assert found["trends"] is not None
    found["trends"]["img"]["never_rises"]["value"] = 0.0
    assert "No answer decays monotonically" in " ".join(sentences([found]))
    found["trends"]["img"]["never_rises"]["value"] = 62.0
    assert "Answers that decay monotonically: 62%." in sentences([found])


def test_short_answers_alone_raise_no_claim() -> None:
    assert sentences([fake.summary("testbed-s")["benchmarks"]["gqa"]]) == [
        "Its answers are too short to grow, so the question does not arise."
    ]


def test_a_picture_is_well_formed_described_and_coloured_by_the_page() -> None:
    summaries = [fake.summary("testbed-s"), fake.summary("testbed-m", fall=0.01)]
    pictures = [
        figures.curves(summaries, "nocaps").svg,
        figures.layers(summaries, 0, "nocaps").svg,
        figures.layers(summaries, 1, "nocaps").svg,
    ]
    for svg in pictures:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        children = {child.tag.rpartition("}")[2]: child.text for child in root}
        assert "Attention" in (children["title"] or "")
        assert "%" in (children["desc"] or "")
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}
    assert "var(--model-1)" in pictures[0]
    assert pictures[0] == figures.curves(summaries, "nocaps").svg


def test_steps_that_few_answers_reach_are_not_drawn() -> None:
    found = fake.summary("testbed-s")["benchmarks"]["nocaps"]
    found["curve"]["samples"] = [40, 40, 20, 19, 3]
    assert figures.shown_steps(found) == 3


@pytest.mark.slow
def test_names_are_text(study: Study) -> None:
    summary = fake.summary(HOSTILE)
    assert "<script" not in str(escape(figures.curves([summary], "nocaps")))
    assert "<script" not in str(escape(figures.layers([summary], 0, "nocaps")))
    ElementTree.fromstring(figures.layers([summary], 0, "nocaps").svg)
    meta = {**summary["meta"], "command": HOSTILE, "device": HOSTILE}
    put({"meta": meta})
    results.write_study(study, Path(), images=False)
    page = report_pages(study, load(study))["attention.html"]
    assert page.count("<script") == 1, "that of the page's tables"
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(("key", "value"), [("study", "other"), ("model", "testbed-m")])
def test_a_trace_from_elsewhere_is_refused(study: Study, key: str, value: str) -> None:
    put({key: value})
    with pytest.raises(TraceError, match=f"testbed-s.json: {key}: is '{value}'"):
        attention(study)


def test_tables_of_another_trace_are_refused(tmp_path) -> None:
    found = TraceFiles(tmp_path / "testbed-s.json")
    mass = {"gqa": {0: np.full((1, 2, 4), 0.25, np.float32)}}
    hashes = {"mass": write_mass(found.mass, mass)}
    made = fake.summary("testbed-s")
    write_summary(found.summary, {**made, "meta": {**made["meta"], "hashes": hashes}})
    read_summary(found.summary)
    write_mass(found.mass, {"gqa": {1: mass["gqa"][0]}})
    with pytest.raises(
        TraceError, match=r"testbed-s\.parquet: is not of the trace that .* run `dyrate trace` again"
    ):
        read_summary(found.summary)
