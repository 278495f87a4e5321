import re
from dataclasses import replace
from xml.etree import ElementTree

from dyrate.analysis.measurements import load
from dyrate.report import figures
from dyrate.report.page import report_pages
from dyrate.study import Study
from tests.report import fake


def test_panels_join_a_methods_nth_setting_on_each_model(measurements):
    labels = [{m.label for m in panel} for panel in figures.panels(measurements)]

    assert {"FastV (K=2, R=0.5)"} in labels
    assert {"VTW (K=4)", "VTW (K=6)"} in labels
    assert len(labels) == 7


def test_a_figure_is_well_formed_and_takes_its_colours_from_the_page(study, measurements):
    panel = figures.panels(measurements)[0]

    svg = figures.differences(panel, measurements, study.benchmarks, "a")

    ElementTree.fromstring(svg)
    assert "var(--model-1)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}
    assert svg == figures.differences(panel, measurements, study.benchmarks, "a")


def test_one_result_without_a_baseline_has_no_difference_to_draw(study, measurements):
    alone = [replace(m, among=[]) for m in measurements if m.method == "fastv"][:1]

    assert figures.differences(alone, alone, study.benchmarks, "a") is None
    assert figures.tradeoff("testbed-s", alone, study.benchmarks, "prefill", "b") is None


def test_the_legend_of_tradeoff_names_every_setting_once(measurements):
    found = figures.legend(measurements)

    assert len({mark for mark, _ in found}) == len(found)
    named = [label for _, labels in found for label in labels.split(" / ")]
    assert sorted(named) == sorted({m.label for m in measurements})


def test_a_methods_settings_share_shape_and_colour_and_one_is_filled(measurements):
    marks = {label: mark for mark, label in figures.legend(measurements)}
    first, second = marks["FastV (K=3, R=0.5)"], marks["FastV (K=2, R=0.5)"]

    assert first.look == second.look
    assert (first.hollow, second.hollow) == (False, True)
    assert first.glyph != second.glyph
    assert marks["VTW (K=4) / VTW (K=6)"].look.shape != first.look.shape


def test_tradeoff_has_no_text_among_its_points(study, measurements):
    svg = figures.tradeoff("testbed-m", measurements, study.benchmarks, "decode", "a")

    drawn = re.sub("<desc>.*?</desc>", "", svg)
    assert drawn != svg, "who does not see it is told"
    assert not any(m.label in drawn for m in measurements)


def test_text_in_labels_is_text(study, tmp_path):
    fake.write_study(study, tmp_path, images=False)
    study = Study.of({**study.config, "methods": study.config["methods"][:2]})
    measurements = load(study)
    for m in measurements:
        m.result["label"] += " <b>$x$ & $\\frac</b>"

    page = report_pages(study, measurements)["results.html"]

    assert "&lt;b&gt;$x$ &amp; $\\frac&lt;/b&gt;" in page
    assert "<b>$x$" not in page
