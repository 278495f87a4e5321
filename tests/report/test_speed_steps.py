"""What a decode step consists of, and how much of the bytes' saving shows."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from dyrate.report.page import report_pages
from dyrate.report.speed.section import speed
from dyrate.speed.documents import FOLDER, paths, read
from dyrate.speed.passes import GROUPS, group, profiled, savings
from tests.report.speed.fake import FASTV, NONE, REPLAY, bench, row, spread, written
from tests.report.test_page import HOSTILE, text_of

ROOT = Path(__file__).parents[2]
PARTS = {
    "_attend": 3.0,
    "nvjet_sm90_tst_64x8": 2.0,
    "splitKreduce_kernel": 0.25,
    "_gate": 0.5,
    "_best": 0.125,
}


def step(parts):
    found = [{"name": name, "calls": 32, "milliseconds": value} for name, value in parts.items()]
    return {"milliseconds": 9.0, "parts": found}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("_attend", "attention"),
        ("_combine", "attention"),
        ("_by_dots", "linear layers"),
        ("ampere_bf16_s16816gemm_bf16_128x64", "linear layers"),
        ("cutlass_80_wmma", "linear layers"),
        ("_normalise", "norms, gates, rotary positions"),
        ("_attend_to_nothing", "the rest"),
        ("Memcpy DtoD (Device -> Device)", "the rest"),
    ],
)
def test_kernels_have_their_groups(kernel, name):
    assert GROUPS[group(kernel)] == name


@pytest.mark.parametrize(
    "kernel", ["_attend", "_combine", "_by_sums", "_by_dots", "_normalise", "_gate", "_rotate"]
)
def test_the_kernels_in_groups_are_there(kernel):
    sources = [path.read_text("utf-8") for path in (ROOT / "dyrate/kernels/device").glob("*.py")]

    assert sum(f"@triton.jit\ndef {kernel}(" in source for source in sources) == 1
    assert GROUPS[group(kernel)] != "the rest"


@pytest.mark.usefixtures("elsewhere")
def test_bars_are_of_the_engines_steps_by_batch():
    rows = [
        row(NONE, batch=32, decode_step=step(PARTS)),
        row(NONE, batch=32, engine="transformers", decode_step=step(PARTS)),
        row(FASTV, batch=1, decode_step=step({"_attend": 1.0}), label=f"{HOSTILE}, graph"),
        row(FASTV, batch=32, decode_step=None),
    ]
    (found,) = written(bench(rows)).benches

    first, second = profiled([found], "decode_step")

    assert first.groups == (1.0, 0, 0, 0)
    assert first.label == f"batch 1: 1.00 ms in 32 kernels\n{HOSTILE}"
    assert second.groups == (3.0, 2.25, 0.5, 0.125)
    assert second.label == "batch 32: 5.88 ms in 160 kernels\nnone"
    ((title, picture),) = speed(read()).steps
    svg = picture.svg
    assert title == "LLaVA-1.5-7B, Some GPU, bfloat16"
    ElementTree.fromstring(svg)
    assert "<script" not in svg


@pytest.mark.usefixtures("elsewhere")
def test_the_clock_is_set_against_the_bytes():
    rows = [
        row(method, batch=32, engine=engine, per_token_ms=spread(milliseconds), bandwidth_share=share)
        for method, engine, milliseconds, share in (
            (NONE, "graph", 8.0, 0.75), (REPLAY, "graph", 6.0, 0.7), (FASTV, "graph", 7.9, 0.75),
            (NONE, "transformers", 30.0, 0.2), (REPLAY, "transformers", 29.0, 0.1),
        )
    ]  # fmt: skip
    (found,) = written(bench([*rows, row(REPLAY, batch=1)])).benches

    (saving,) = savings([found])

    assert saving.timing.method.settings == REPLAY
    assert saving.of_bytes == pytest.approx(1 - (6 * 0.7) / (8 * 0.75))
    assert saving.of_time == 0.25
    assert saving.realised == pytest.approx(0.25 / 0.3)


@pytest.mark.slow
def test_the_page_shows_both(small, elsewhere):
    assert "What a decode step consists of" not in text_of(report_pages(*small)["cost.html"])
    prompt = {"cudnn_generated_sdpa_flash": 4.0, "nvjet_gemm": 30.0}
    rows = [row(NONE, batch=32, decode_step=step(PARTS), prompt_pass=step(prompt)), row(REPLAY, batch=32)]
    written(bench(rows))

    text = text_of(report_pages(*small)["cost.html"])

    assert "What a decode step consists of" in text
    assert "batch 32: 5.88 ms in 160 kernels" in text
    assert "What a prompt’s pass consists of" in text
    assert "batch 32: 34.00 ms in 64 kernels" in text
    assert profiled(read().benches, "prompt_pass")[0].groups == (4.0, 30.0, 0, 0)
    assert "How much of the bytes’ saving the clock shows" in text


def test_of_the_committed_steps_attention_and_products_are_almost_all():
    found = profiled(read(paths(ROOT / FOLDER)).benches, "decode_step")

    assert {step.timing.batch for step in found} >= {1, 128}
    for one in found:
        assert one.groups[0] + one.groups[1] > 0.9 * sum(one.groups)
