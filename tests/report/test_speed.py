"""What `dyrate bench` measured, as the page shows it: made-up documents in the schema of the real ones."""

import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dyrate.cost.shapes import LLAVA
from dyrate.errors import DyrateError
from dyrate.report.page import report_page
from dyrate.report.speed import figures, printed, spending
from dyrate.report.speed.files import FOLDER, Documents, Load, SpeedError, paths, read
from dyrate.report.speed.section import overheads, speed
from dyrate.report.speed.words import paragraphs
from tests.report.test_page import HOSTILE, text_of

FIXTURE = Path(__file__).with_name("speed") / "decode.json"
NONE, REPLAY = {"name": "none"}, {"name": "replay", "layer": 2, "rates": [0.9, 0.5]}
FASTV = {"name": "fastv", "layer": 2, "rate": 0.5}
SHAPE = LLAVA["LLaVA-1.5-7B"]


def spread(value: float) -> dict[str, float]:
    return {"median": value, "low": 0.9 * value, "high": 1.1 * value, "rounds": 3}


def row(method: Any, *, batch: int = 1, engine: str = "graph", **changes: Any) -> dict[str, Any]:
    """A contender twice as fast where it drops tokens, at any batch."""
    half = 2 if method and method["name"] not in ("none",) else 1
    name = method["name"] if method else "generate"
    return {
        "contender": name,
        "label": f"{name}, {engine}",
        "engine": engine,
        "method": method,
        "batch": batch,
        "prompt": 640,
        "new_tokens": 33,
        "first_token_ms": spread(40 * batch / half),
        "per_token_ms": spread((4 + batch) / half),
        "whole_ms": spread((40 * batch + 32 * (4 + batch)) / half),
        "tokens_per_second": 200.0 * half,
        "speedup": float(half),
        "kv_bytes": 2**28 * batch // half,
        "peak_bytes": 2**34,
        "bandwidth_share": 0.8,
        "matrix_share": 0.5,
        **changes,
    }


def bench(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    shape = {"text": vars(SHAPE.text), "vision": vars(SHAPE.vision)}
    return {
        "schema": "dyrate.bench",
        "version": 1,
        "command": "dyrate bench --shape llava-1.5-7b",
        "model": "llava-1.5-7b",
        "weights": "random",
        "replayed": "predictors/testbed/testbed-s/lambda-2",
        "dtype": "bfloat16",
        "device": "Some GPU",
        "threads": 8,
        "seed": 0,
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.11.0"},
        "shape": shape,
        "limits": {"bytes_per_second": 4e12, "flops_per_second": 8e14},
        "rows": rows,
        **changes,
    }


ROWS = [
    row(method, batch=batch, engine=engine)
    for batch in (1, 32)
    for method, engine in (
        (None, "transformers"), (NONE, "transformers"), (NONE, "graph"), (FASTV, "transformers"),
        (FASTV, "graph"), (REPLAY, "graph"),
    )
]  # fmt: skip
HARNESS = {
    **{key: bench([])[key] for key in ("version", "command", "model", "weights", "dtype", "device")},
    "commit": None,
    "schema": "dyrate.bench_harness",
    "versions": {},
    "batch_size": 128,
    "new_tokens": 64,
    "rows": [
        {
            "name": name, "samples": 16, "seconds": [2.0, 3.0], "tokens": 99, "captions_per_second": rate,
            "speedup": rate,
        }
        for name, rate in (("llava_hf", 1.0), ("Unpruned", 27.5))
    ],
}  # fmt: skip


def written(*documents: Any) -> Documents:
    """The documents, in the folder that the report reads below the working one."""
    FOLDER.mkdir(parents=True)
    for i, document in enumerate(documents):
        (FOLDER / f"{i}.json").write_text(json.dumps(document))
    return read()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Reading.


def test_what_the_command_writes_is_read():
    (found,) = read([FIXTURE.as_posix()]).benches

    assert found.model == "LLaVA-1.5-7B"
    assert found.made.device == "NVIDIA H200"
    assert [load.batch for load in found.loads] == [1, 32]
    assert found.timings[0].contender == "generate"
    assert found.timings[0].per_token.median == pytest.approx(18.42, abs=0.01)


def _without(key):
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda d: d.update(schema="dyrate.result"), "schema: is 'dyrate.result', should be 'dyrate.bench'"),
        (lambda d: d.update(version=2), "version: is 2; this dyrate reads version 1"),
        (_without("limits"), "'limits' is a required property"),
        (lambda d: d.update(weights="real"), "weights: 'real' is not one of"),
        (lambda d: d["shape"]["text"].pop("heads"), "shape.text: 'heads' is a required property"),
        (lambda d: d["shape"]["text"].update(depth=1), "shape.text: "),
        (lambda d: d["rows"][0].update(matrix_share="half"), "rows.0.matrix_share: 'half' is not of type"),
        (lambda d: d["rows"][0]["whole_ms"].update(median=0), "rows.0.whole_ms.median: 0 is less than"),
        (lambda d: d["rows"][1].update(prompt=500), "rows.1.prompt: 500 tokens; the image alone has 576"),
        (lambda d: d["rows"].clear(), "rows: [] "),
        (lambda d: d["rows"][0].update(method={"name": "replay", "rates": [2]}), "rows.0.method.rates: "),
    ],
)
def test_a_bad_document_is_named_with_its_key(spoil, complaint):
    document = json.loads(json.dumps(bench(ROWS)))
    spoil(document)

    with pytest.raises(SpeedError) as refused:
        written(document)

    assert isinstance(refused.value, DyrateError)
    assert f"{FOLDER}/0.json: {complaint}" in str(refused.value).replace("(top level): ", "")


@pytest.mark.parametrize("text", ["{", "[]", '{"a": NaN}', "\udcff"])
def test_a_file_that_is_none_of_it_is_named(text):
    FOLDER.mkdir(parents=True)
    (FOLDER / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(SpeedError, match=r"^results/h200/x\.json: "):
        read()


def test_a_missing_field_of_the_harness_is_named():
    spoiled = {**HARNESS, "rows": [{**HARNESS["rows"][0], "seconds": []}]}

    with pytest.raises(SpeedError, match=r"0\.json: rows\.0\.seconds"):
        written(spoiled)


def test_names_of_files_do_not_matter():
    one, other = bench(ROWS[:6]), bench(ROWS[6:])
    FOLDER.mkdir(parents=True)
    orders = []
    for names in (("a", "b"), ("b", "a")):
        for path in map(Path, paths()):
            path.unlink()
        for name, document in zip(names, (one, other), strict=True):
            (FOLDER / f"{name}.json").write_text(json.dumps(document))
        orders.append([found.timings for found in read().benches])

    assert orders[0] == orders[1]


# What is counted.


def test_the_ledger_agrees_with_what_the_command_counted_from_the_run_itself():
    for found in read([FIXTURE.as_posix()]).benches:
        for timing in found.timings:
            phases = spending.phases(timing.method, found.shape, timing.load)
            batch = timing.load.batch
            keys = sum(phases.decode.pairs) / phases.steps * batch * found.shape.text.kv_width
            read_bytes = spending.weight_bytes(found.shape, 2) + keys * 2
            prompt = spending.count(phases.prefill, found.shape, spending.CONVENTIONS["flops"]).total

            assert prompt * batch == pytest.approx(spending.prefill_flops(found, timing), rel=1e-9)
            assert read_bytes == pytest.approx(spending.step_bytes(found, timing), rel=1e-9)


def test_flops_of_fastv_are_those_of_the_formula():
    # One new token, FastV's convention: n tokens cost 4nd² + 2n²d + 2ndm in each layer.
    def layer(n):
        return 4 * n * 4096**2 + 2 * n**2 * 4096 + 2 * n * 4096 * 11008

    by_hand = (2 * layer(640) + 30 * layer(640 - 288)) / (32 * layer(640))

    found = spending.percent(FASTV, SHAPE, Load(8, 640, 1), "fastv_2ndm", "cached")

    assert found == pytest.approx(100 * by_hand)


def test_without_visual_tokens_the_encoder_remains():
    load = Load(1, 640, 33)
    layers = spending.percent({"name": "text_only"}, SHAPE, load, "gated_3ndm", "prefill")
    everything = spending.percent({"name": "text_only"}, SHAPE, load, "flops", "prefill")

    assert layers < 10 < everything


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"mode": "select"}, [10, 10, 10, 10]),
        ({"mode": "select", "prune_prefill": False}, [100, 50, 20, 80]),
        ({"mode": "select", "prune_prefill": False, "monotone": True}, [100, 50, 20, 20]),
        ({"mode": "evict", "prune_prefill": False}, [100, 50, 20, 20]),
        ({"mode": "evict", "prune_prefill": False, "evict_at_least": 60}, [100, 100, 20, 20]),
        ({"mode": "none", "prune_prefill": False}, [100, 100, 100, 100]),
        ({"mode": "select", "prune_prefill": False, "minimum": 0.4}, [100, 50, 40, 80]),
    ],
)
def test_replayed_rates_select_for_a_step_and_evict_for_good(changes, seen):
    method = {"name": "replay", "layer": 2, "rates": [0.9, 0.5, 0.8, 0.2], **changes}

    assert spending.attended(method, 100, 3) == (2, seen)


def test_of_rates_that_depend_on_the_input_nothing_is_counted():
    load = Load(1, 640, 33)

    assert spending.percent({"name": "dyrate", "predictor": "p"}, SHAPE, load, "flops", "cached") is None


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

    assert printed.row_name(found, found.timings[0]) == name


def test_a_predictor_that_drops_nothing_is_no_dyrate():
    (found,) = written(
        bench([row(NONE), row({"name": "dyrate"}, contender="overhead select, mlp", whole_ms=spread(200.0))])
    ).benches

    assert printed.row_name(found, found.timings[1]) is None
    assert overheads(found)[0].startswith("LLaVA-1.5-7B, batch 1, prompt 640, N = 33: −50.0%")


def test_another_shape_stands_beside_nothing():
    document = json.loads(json.dumps(bench(ROWS)))
    document["shape"]["text"]["layers"] = 8
    (found,) = written(document).benches

    assert found.model == "llava-1.5-7b"
    assert printed.row_name(found, found.timings[0]) is None
    assert printed.groups([found]) == ((), ())


def test_each_latency_is_set_against_the_unpruned_model_on_its_engine():
    first, others = printed.groups(written(bench(ROWS)).benches)

    (group,) = first
    assert [other.load.batch for other in others] == [32]
    fastv = [line for line in group.lines if line.timing and line.timing.method == FASTV]
    assert [(line.printed.name if line.printed else None, line.timing.engine) for line in fastv] == [
        ("FastV(K=2,R=0.5)", "transformers"),
        (None, "graph"),
    ]
    assert [line.per_token for line in fastv] == [50, 50]
    assert fastv[0].printed_share == "58.4"  # 41.37 / 70.80
    vtw = next(line for line in group.lines if line.printed and line.printed.name == "VTW(K=16,R=1)")
    assert vtw.timing is None


# Pictures and words.


def test_pictures_are_well_formed_and_take_their_colours_from_the_page():
    found = speed(written(bench(ROWS)))

    svgs = [svg for _, svg in found.roofs] + [svg for curves in found.curves for svg in curves.pictures]
    assert len(svgs) == 1 + len(figures.MEASURES)
    for svg in svgs:
        ElementTree.fromstring(svg)
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}
    assert svgs == [svg for _, svg in speed(read()).roofs] + [
        svg for curves in speed(read()).curves for svg in curves.pictures
    ]


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


def test_the_page_says_what_random_weights_and_replayed_rates_mean(small):
    written(bench(ROWS), HARNESS)
    text = text_of(report_page(*small))

    assert "Random weights: times mean something, answers do not." in text
    assert "predictors/testbed/testbed-s/lambda-2" in text
    assert "no method was measured at the shape of LLaVA-1.5-13B" in text
    assert "27.5" in text
    assert text.count("dyrate bench --shape llava-1.5-7b") == 2


def test_without_documents_the_page_says_so(small):
    text = text_of(report_page(*small))

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

    page = report_page(*small)

    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;/td&gt;&lt;/script&gt;" in page


def test_the_page_does_not_change_with_the_clock_of_its_files(small):
    written(bench(ROWS), HARNESS)
    page = report_page(*small)
    for path in paths():
        os.utime(path, (1, 1))

    assert report_page(*small) == page
