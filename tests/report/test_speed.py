"""What `dyrate bench` measured, as the page shows it: made-up documents in the schema of the real ones."""

import json
import os
import re
from xml.etree import ElementTree

import pytest

from dyrate.analysis.pareto import TITLE
from dyrate.cost.flops import CONVENTIONS, count, scope
from dyrate.cost.work import schedule
from dyrate.errors import DyrateError
from dyrate.report.looks import Look
from dyrate.report.page import report_pages
from dyrate.report.speed import figures
from dyrate.report.speed.explanation import paragraphs
from dyrate.report.speed.section import overheads, speed
from dyrate.speed import costs, table3
from dyrate.speed.documents import paths, read
from dyrate.speed.series import by_batch
from tests.report.speed.fake import (
    FASTV,
    FIXTURE,
    HARNESS,
    NONE,
    REPLAY,
    ROWS,
    SHAPE,
    bench,
    row,
    spread,
    written,
)
from tests.report.test_page import HOSTILE, text_of


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# What is counted.


def ledger(layer, dropped, new_tokens=33, prompt=640):
    """The work of a row that drops so many tokens before a layer and no more at decode."""
    lengths = [prompt] * layer + [prompt - dropped] * (SHAPE.text.layers - layer)
    return schedule(lengths, new_tokens - 1, SHAPE.vision.patches)


def total(work, where, convention="flops"):
    return count(scope(work, where), SHAPE, CONVENTIONS[convention]).total


def test_what_documents_from_before_hold_is_taken_back_to_what_was_counted():
    (found,) = read([FIXTURE.as_posix()]).benches
    for timing in found.rows:
        settings = timing.method.settings if timing.method else {}
        if settings.get("name") not in ("fastv", "none", None):
            continue
        dropped = round(settings.get("rate", 0) * 576)
        work = ledger(settings.get("layer", 0), dropped, timing.new_tokens, timing.prompt)
        keys = sum(work.decode.pairs) / work.steps * timing.batch * SHAPE.text.kv_width
        chosen = 2 * 640 * (4096 + 3 * 32) if dropped else 0  # of layer K-1's last query
        prefill = timing.batch * (total(work, "prefill") + chosen)

        assert costs.flops(found, timing, "prefill") == pytest.approx(prefill, rel=1e-9)
        assert costs.flops(found, timing, "cached") == pytest.approx(
            timing.batch * (total(work, "cached") + chosen), rel=1e-6
        )
        assert costs.step_bytes(found, timing) == pytest.approx(
            costs.weight_bytes(found.sizes, 2) + keys * 2, rel=1e-9
        )


def test_what_a_row_stores_is_what_is_shown():
    counted = {"prefill": 600, "cached": 1240, "no_cache": 9000}
    whole = {"prefill": 1000, "cached": 2000, "no_cache": 20000}
    method = {"name": "theirs.py:Theirs"}  # of which nothing is known but this
    rows = [row(NONE, flops={"flops": whole}), row(method, flops={"flops": counted}, step_bytes=9e9)]
    (found,) = written(bench(rows)).benches
    unpruned, mine = found.rows

    assert costs.percent(found, mine, unpruned, "cached") == 62
    assert costs.step_flops(found, mine) == 640 / 32
    assert costs.step_bytes(found, mine) == 9e9


@pytest.mark.parametrize(
    ("flops", "complaint"),
    [
        ({}, "rows.0.flops: flops is missing"),
        ({"flops": {"prefill": 1, "cached": 2}}, "rows.0.flops.flops: no_cache is missing"),
        ({"flops": {"prefill": 0, "cached": 2, "no_cache": 2}}, "rows.0.flops.flops.prefill: 0 is not"),
    ],
)
def test_sums_that_are_not_whole_are_refused(flops, complaint):
    with pytest.raises(DyrateError, match=complaint):
        written(bench([row(NONE, flops=flops)]))


def test_flops_of_fastv_are_those_of_the_formula():
    # One new token, FastV's convention: n tokens cost 4nd² + 2n²d + 2ndm in each layer.
    def layer(n):
        return 4 * n * 4096**2 + 2 * n**2 * 4096 + 2 * n * 4096 * 11008

    by_hand = (2 * layer(640) + 30 * layer(640 - 288)) / (32 * layer(640))
    mine, whole = (total(ledger(2, dropped, 1), "cached", "fastv_2ndm") for dropped in (288, 0))

    assert mine / whole == pytest.approx(by_hand)


def test_without_visual_tokens_the_encoder_remains():
    layers, everything = (
        100 * total(ledger(0, 576), "prefill", convention) / total(ledger(0, 0), "prefill", convention)
        for convention in ("gated_3ndm", "flops")
    )

    assert layers < 10 < everything
    (text,) = (one.text for one in paragraphs(()) if one.claim.startswith("No visual token"))
    assert f"still has {everything:.0f}% of the FLOPs of prefill" in text


# Beside what is printed.


@pytest.mark.parametrize(
    ("method", "changes", "name"),
    [
        (None, {}, "Original"),
        (NONE, {}, "Original"),
        (FASTV, {}, "FastV(K=2,R=0.5)"),
        ({**FASTV, "layer": 3}, {}, "FastV(K=3,R=0.5)"),
        ({**FASTV, "rate": 0.75}, {}, None),
        ({"name": "vtw", "layer": 16}, {}, "VTW(K=16,R=1)"),
        ({"name": "vtw", "layer": 15}, {}, None),
        (REPLAY, {}, "DyRate"),
        (REPLAY, {"replayed": None}, None),
        ({"name": "dyrate", "predictor": "p"}, {}, "DyRate"),
        ({"name": "random", "layer": 2, "rate": 0.5}, {}, None),
    ],
)
def test_a_contender_stands_beside_the_row_of_its_settings(method, changes, name):
    (found,) = written(bench([row(method)], **changes)).benches

    assert table3.row_name(found, found.rows[0]) == name


def test_a_predictor_that_drops_nothing_is_no_dyrate():
    (found,) = written(
        bench([row(NONE), row({"name": "dyrate"}, contender="overhead select, mlp", whole_ms=spread(200.0))])
    ).benches

    assert table3.row_name(found, found.rows[1]) is None
    assert overheads(found)[0].startswith("LLaVA-1.5-7B, batch 1, prompt 640, N = 33: −50.0%")


def test_another_shape_stands_beside_nothing():
    document = json.loads(json.dumps(bench(ROWS)))
    document["shape"]["text"]["layers"] = 8
    (found,) = written(document).benches

    assert found.shape_name == "llava-1.5-7b"
    assert table3.row_name(found, found.rows[0]) is None
    assert table3.groups([found]) == ((), ())


def test_each_latency_is_set_against_the_unpruned_model_on_its_engine():
    first, others = table3.groups(written(bench(ROWS)).benches)

    (group,) = first
    assert [other.load.batch for other in others] == [32]
    fastv = [line for line in group.lines if line.timing and line.timing.name.startswith("fastv")]
    assert [(line.printed.name if line.printed else None, line.timing.engine) for line in fastv] == [
        ("FastV(K=2,R=0.5)", "transformers"),
        (None, "graph"),
    ]
    assert [line.per_token for line in fastv] == [50, 50]
    assert fastv[0].printed_share == "58.4"  # 41.37 / 70.80
    vtw = next(line for line in group.lines if line.printed and line.printed.name == "VTW(K=16,R=1)")
    assert vtw.timing is None


# Pictures and words.


@pytest.mark.slow
def test_pictures_are_well_formed_and_take_their_colours_from_the_page():
    found = speed(written(bench(ROWS)))

    svgs = drawn(found)
    assert len(svgs) == 1 + len(figures.MEASURES)
    for svg in svgs:
        ElementTree.fromstring(svg)
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}
    assert svgs == drawn(speed(read()))


def drawn(found):
    pictures = [picture for _, picture in found.roofs]
    pictures += [picture for curves in found.curves for picture in curves.pictures]
    return [picture.svg for picture in pictures]


def test_no_two_contenders_look_alike_and_each_has_its_familys_colour():
    methods = [{**FASTV, "layer": layer} for layer in range(1, 17)] + [REPLAY, NONE, None]
    rows = [row(m, label=f"{i}", batch=batch) for i, m in enumerate(methods) for batch in (1, 2)]
    (contenders,) = by_batch(written(bench(rows)).benches).values()
    families = {"none": Look("*"), TITLE: Look("D", 0), "fastv": Look("s", 4)}

    marks = figures.contenders(contenders, families)

    assert len(set(marks.values())) == len(methods)
    numbers = [mark.look.number for mark in marks.values()]
    assert numbers == [4] * 16 + [0, None, None]
    assert [mark.look.control for mark in marks.values()][-2:] == [False, True]


def test_one_token_and_no_memory_leave_out_their_pictures():
    rows = [
        {**one, "new_tokens": 1, "per_token_ms": None, "bandwidth_share": None, "peak_bytes": None}
        for one in ROWS
    ]

    found = speed(written(bench(rows)))

    assert len(found.curves[0].pictures) == 2  # tokens per second and the cache
    assert len(found.roofs) == 1


def test_numbers_of_the_text_are_measured_or_counted_or_absent():
    without = " ".join(paragraph.text for paragraph in paragraphs(()))
    found = written(bench(ROWS)).benches
    measured = " ".join(paragraph.text for paragraph in paragraphs(found))

    assert "Some GPU" not in without
    assert "13.2 GB" in without  # 6.6e9 weights that a step reads, two bytes each
    assert "can do 200 FLOPs while it moves one byte" in measured
    assert (
        "fastv, graph takes, of the unpruned time per token, 50% at batch 1 and 50% at batch 32" in measured
    )
    assert "a step of transformers’ generate() takes 5.0 ms, and reading its bytes alone 4.0 ms" in measured
    assert 250 < len(measured.split()) < 450


# On the page.


@pytest.mark.slow
def test_the_page_says_what_random_weights_and_replayed_rates_mean(small):
    written(bench(ROWS), HARNESS)
    text = text_of(report_pages(*small)["cost.html"])

    assert "Random weights: times mean something, answers do not." in text
    assert "predictors/testbed/testbed-s/lambda-2" in text
    assert "no method was measured at the shape of LLaVA-1.5-13B" in text
    assert "27.5" in text
    assert text.count("dyrate bench --shape llava-1.5-7b") == 2


def test_without_documents_the_page_says_so(small):
    text = text_of(report_pages(*small)["cost.html"])

    assert "Not measured here: the checkout has no document of dyrate bench" in text
    assert "Why FLOPs, latency and KV bytes disagree" in text


def test_text_of_documents_is_text(small):
    hostile = json.loads(json.dumps(bench(ROWS)))
    for key in ("command", "device", "commit", "replayed", "model", "date"):
        hostile[key] = HOSTILE
    for entry in hostile["rows"]:
        entry["label"] = entry["engine"] = HOSTILE
    hostile["rows"][0]["contender"] = HOSTILE
    harness = {**HARNESS, "rows": [{**HARNESS["rows"][0], "name": HOSTILE}]}
    written(hostile, {**harness, "device": HOSTILE, "model": HOSTILE})

    page = report_pages(*small)["cost.html"]

    assert page.count("<script") == 1, "that of the page's tables"
    assert "<img src=x" not in page
    assert "&lt;/td&gt;&lt;/script&gt;" in page


@pytest.mark.slow
def test_the_page_does_not_change_with_the_clock_of_its_files(small):
    written(bench(ROWS), HARNESS)
    page = report_pages(*small)["cost.html"]
    for path in paths():
        os.utime(path, (1, 1))

    assert report_pages(*small)["cost.html"] == page
