import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from dyrate.analysis.measurements import load
from dyrate.report import drawing, figures
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

    picture = figures.differences("panel", panel, measurements, study.benchmarks, "a")

    svg = picture.svg
    ElementTree.fromstring(svg)
    assert "var(--model-1)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}
    assert svg == figures.differences("panel", panel, measurements, study.benchmarks, "a").svg


def test_a_figures_files_are_the_same_each_time_and_have_no_date(study, measurements, tmp_path):
    def drawn():
        return figures.tradeoff("testbed-s", measurements, study.benchmarks, "prefill")

    first, again = drawn(), drawn()

    for suffix in ("svg", "pdf"):
        assert first.saved(suffix) == again.saved(suffix)
        assert not re.search(rb"Date|20\d\d-\d\d", first.saved(suffix))
    ElementTree.fromstring(first.saved("svg"))
    assert b"var(--" not in first.saved("svg"), "elsewhere there is no page to take colours from"
    assert first.saved("pdf").startswith(b"%PDF")
    (line,) = [line for line in first.csv.splitlines() if line.startswith('"FastV (K=3, R=0.5)"')]
    assert len(line.split('",')[1].split(",")) == 2


def test_every_figure_on_a_page_has_its_data_and_its_files(rendered):
    _, pages, pictures = rendered

    linked = [link for page in pages.values() for link in re.findall(r'href="figures/([^"]+)"', page)]
    assert sorted(linked) == sorted(f"{n}.{suffix}" for n in pictures for suffix in ("svg", "pdf", "csv"))
    for page in pages.values():
        assert page.count("<svg") == page.count('<details class="data">')
    titles = [picture.title for picture in pictures.values()]
    assert len(titles) == len(set(titles))
    assert all(picture.rows for picture in pictures.values())


@pytest.mark.slow
def test_a_report_with_all_its_figures_is_light(rendered, tmp_path):
    _, pages, pictures = rendered
    drawing.write(pictures, tmp_path)

    weight = sum(len(page.encode()) for page in pages.values())
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 3 * len(pictures)
    assert weight + sum(sizes) < 15_000_000


def test_what_a_name_has_beside_letters_is_no_part_of_a_path():
    assert drawing.named("pareto", "../a b", 2) == "pareto-.._2fa_20b-2"
    assert drawing.named("a_b") != drawing.named("a-b")


def test_one_result_without_a_baseline_has_no_difference_to_draw(study, measurements):
    alone = [replace(m, among=[]) for m in measurements if m.method == "fastv"][:1]

    assert figures.differences("panel", alone, alone, study.benchmarks, "a") is None
    assert figures.tradeoff("testbed-s", alone, study.benchmarks, "prefill") is None


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
    svg = figures.tradeoff("testbed-m", measurements, study.benchmarks, "decode").svg

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
