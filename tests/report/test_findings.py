"""What the front page says, and what pages say of jobs, predictors, layers and categories."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dyrate.analysis.contents import gather
from dyrate.analysis.measurements import load
from dyrate.analysis.tables import table1
from dyrate.evaluation.results import ResultFiles
from dyrate.report import breakdowns, browser, provenance, steps
from dyrate.report.html import data_block
from dyrate.report.learned import learned
from dyrate.report.looks import looks
from dyrate.report.page import report_pages
from dyrate.study import Study
from tests.report import fake
from tests.report.test_incomplete import older
from tests.report.test_page import HOSTILE, text_of


def test_the_front_page_has_three_to_five_findings_and_each_is_a_sentence(rendered):
    found = rendered[0][2].headlines
    page = rendered[1]["index.html"]

    assert 3 <= len(found) <= 5
    assert all(sentence.endswith(".") and "None" not in sentence for sentence in found)
    section = text_of(page.partition('id="findings"')[2].partition("</section>")[0])
    assert all(sentence in section for sentence in found)


def test_a_finding_names_the_two_that_keep_most_within_a_budget(rendered):
    first = rendered[0][2].headlines[0]

    assert first.startswith("With at most 67% of the visual tokens at prefill, ")
    assert re.search(r"keeps \d+\.\d% \[\d+\.\d to \d+\.\d\] of testbed-s’s unpruned score on eleven", first)
    best = float(re.search(r"keeps (\d+\.\d)%", first).group(1))
    second = float(re.search(r"the next, (\d+\.\d)%", first).group(1))
    assert best >= second


def test_wins_against_fastv_are_those_of_the_comparison(rendered):
    _, _, contents, _ = rendered[0]
    (sentence,) = [s for s in contents.headlines if s.startswith("At equal budget DyRate wins")]
    wins, total, losses = map(int, re.search(r"wins (\d+) of (\d+) .* loses (\d+)", sentence).groups())
    fastv = [s for s in contents.standings if s.competitor.startswith("FastV") and s.mine.group == "main"]

    assert (wins, losses) == tuple(sum(s.count(kind) for s in fastv) for kind in ("win", "loss"))
    assert total == sum(len(s.comparisons) for s in fastv)


def test_what_was_not_run_is_said(rendered):
    page = text_of(rendered[1]["index.html"]).partition("What was not run")[2]

    assert "Table I: 12 of its 16 printed rows have no figure of ours: InstructBLIP (7B)" in page
    assert "No trace of attention was made." in page


def test_the_best_of_a_model_is_marked_and_what_reaches_it(study, measurements):
    table = table1(study, measurements)
    for column in range(len(table.columns)):
        for model in ("testbed-s", "testbed-m"):
            scores = [
                row.cells[column].measured
                for row in table.rows
                if row.measurement and row.measurement.model == model and row.cells[column].measured
            ]
            top = max(score.value for score in scores)
            assert [s.best for s in scores] == [s.value == top for s in scores]
            assert [s.near for s in scores] == [s.value < top <= s.high for s in scores]


def test_failed_jobs_are_told_with_the_end_of_their_logs(small):
    study, _ = small
    fake.write_study(study, Path(), asked=True)
    older(study.data_files)
    job = study.jobs[1]
    ResultFiles.beside(Path(job.result)).remove()
    log = Path(study.log(*next(s for s in study.sweeps if job in s.jobs).jobs[0].key))
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {i}\n" for i in range(40)) + f"dyrate: error: {HOSTILE}\n")

    measurements = load(study)
    (failure,) = provenance.failures(study, measurements)
    page = report_pages(study, measurements)["provenance.html"]

    assert failure.tail.splitlines()[0] == "line 29"
    assert "&lt;script&gt;document.title" in page
    assert "<script>document.title" not in page


def test_times_are_those_that_snakemake_wrote(small):
    study, _ = small
    folder = Path("results/smoke/timings")
    folder.mkdir(parents=True)
    header = "s\th:m:s\tmax_rss\tmean_load\n"
    (folder / "build_benchmarks.tsv").write_text(f"{header}8.21\t0:00:08\t-\t85.75\n")
    (folder / "report.tsv").write_text(f"{header}1\t0:00:01\t-\t1\n")

    (timed,) = provenance.timings(study)

    assert timed == provenance.Timed("build_benchmarks", 8.21, None, 85.75)


def test_changed_files_are_told(small):
    study, measurements = small
    assert "Not all of this is in a commit" not in report_pages(study, measurements)["provenance.html"]
    measurements[0].result["meta"]["commit"] += "-dirty"
    page = report_pages(study, measurements)["provenance.html"]
    assert "Not all of this is in a commit" in page
    assert "0123456789ab-dirty" in page


def test_the_graph_has_every_process(rendered):
    study = rendered[0][0]
    found = {step.rule: step.processes for column in provenance.steps(study) for step in column}

    assert found["evaluate"] == len(study.sweeps)
    assert found["train_predictor"] == len(study.trainings)
    assert "trace" not in found


def test_the_browser_has_every_answer_once(small):
    study, measurements = small
    found = browser.browser(measurements, study.benchmarks, None)
    rows = json.loads(str(found.index))
    (block,) = [json.loads(str(b.data)) for b in found.blocks if b.benchmark == "pope"]

    assert [row["label"] for row in rows] == [m.label for m in measurements]
    assert [row["whole"] for row in rows] == [None, 0, 0]
    assert (found.shown, found.left_out) == (len(study.benchmarks) * fake.DOCS, 0)
    doc_id, question, references, answers, given, image = block[3]
    assert (doc_id, references, image) == (3, ["yes"], "")
    assert question.startswith("Is there a triangle")
    for place, m in zip(given, measurements, strict=True):
        expected = fake.answers(m.job, study)["pope"][3]
        assert answers[place] == [expected.answer, expected.scores["accuracy"], 1]


def test_a_browser_that_would_be_heavy_leaves_the_last_samples_out_and_says_so(small, monkeypatch):
    study, measurements = small
    monkeypatch.setattr(browser, "TEXT_BYTES", 11 * 600)

    found = browser.browser(measurements, study.benchmarks, None)

    assert 0 < found.shown < len(study.benchmarks) * fake.DOCS
    page = text_of(report_pages(study, measurements)["samples.html"])
    assert f"{found.left_out} more are left out" in page


def test_no_text_ends_a_block_of_data():
    text = "</script><!--\u2028 & more"
    block = data_block([text])

    assert not set("<>&\u2028") & set(block)
    assert json.loads(str(block)) == [text]


def test_layers_and_categories_are_drawn_where_results_hold_them(study, measurements):
    families = looks(measurements)
    layers = breakdowns.layers("testbed-s", measurements, ["gqa"], "prefill", families)
    mme = breakdowns.categories("testbed-s", measurements, "mme", families)

    assert ("FastV (K=3, R=0.5)", *[100.0] * 3, *[50.0] * 5) in layers.rows
    assert mme is None, "one category is none"
    assert breakdowns.categories("testbed-s", measurements, "gqa", families) is None
    pope, mmb = (
        breakdowns.categories("testbed-s", measurements, name, families).rows for name in ("pope", "mmb")
    )
    assert {row[1:3] for row in pope} == {("adversarial", "4"), ("popular", "4")}
    assert {row[1:3] for row in mmb} == {("ability 0", "1"), ("ability 1", "1")}, (
        "all rotations are one question"
    )
    assert {row[3] for row in mmb} == {0.0, 100.0}
    for m in measurements:
        for one in m.result["benchmarks"].values():
            one["visual_tokens"] = None
    assert breakdowns.layers("testbed-s", measurements, ["gqa"], "prefill", families) is None


def test_what_predictors_learned_comes_from_their_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study.of(fake.WITH_DYRATE)
    fake.write_study(study, tmp_path, images=False)
    measurements = load(study)
    assert learned(measurements, looks(measurements)) == (), "records that say nothing of it"
    path = Path(study.trainings[0].files[0])
    curve = [{"part": "rate", "step": step, "task_loss": 1 / step} for step in (5, 10)]
    path.write_text(json.dumps({**json.loads(path.read_text()), "schedule": [0.5, 0.75], "curve": curve}))

    (found,) = learned(measurements, looks(measurements))

    assert found.model == "testbed-s"
    texts = [ElementTree.fromstring(picture.svg)[1].text for picture in found.pictures]
    assert texts == ["default: 50.00 at 0, 75.00 at 1", "default: 0.20 at 5, 0.10 at 10"]


def test_steps_are_drawn_where_results_hold_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study.of(fake.WITH_DYRATE)
    fake.write_study(study, tmp_path, images=False)
    measurements = [m for m in load(study) if m.group == "main"]
    given = "testbed-s", measurements, "nocaps", looks(measurements)
    assert steps.rates(*given) is None
    assert list(steps.maps(*given)) == []
    for m in measurements:
        found = m.benchmark("nocaps")["visual_tokens"]
        by_layer = found["decode"]
        found["by_step"] = {
            "answers": [8, 8, 3],
            "mean": [by_layer, by_layer, [fake.V] * len(by_layer)],
            "deviation": [0.0, 14.4, 0.0],
        }

    (picture,) = steps.rates(*given).pictures
    maps = dict(steps.maps(*given))

    assert [row[1:3] for row in picture.rows] == [("0", "8"), ("1", "8"), ("2", "3")]
    assert [row[3] for row in picture.rows] == pytest.approx([60, 60, 0])
    assert [row[4] for row in picture.rows] == pytest.approx([0, 10, 0])
    assert len(maps) == 7, "neither the unpruned model nor what has no visual token"
    assert maps["FastV (K=3, R=0.5)"].rows[-1] == ("7", 50.0, 50.0, 100.0)
    for one in (picture, *maps.values()):
        ElementTree.fromstring(one.svg)


def test_with_nothing_measured_no_finding_is_claimed(study):
    contents = gather(study, load(study))

    assert contents.headlines == ()
    assert any("missing" in sentence for sentence in contents.not_run)
