"""`dyrate look` as it is typed."""

import re
from pathlib import Path

import pytest
from PIL import Image

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.look.commands import lines, printable
from dyrate.look.job import Look, shipped_predictor
from dyrate.look.record import Look as Found

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(tmp_path: Path, photo: Image.Image, checkpoint: Path) -> list[str]:
    photo.save(tmp_path / "photo.png")
    question = ["--question", "What is this?", "--new-tokens", "4", "--device", "cpu"]
    return ["look", str(tmp_path / "photo.png"), "--model", str(checkpoint), *question]


def test_answers_are_printed_then_what_was_seen_and_saved(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out/look.html"
    fastv = '{"name": "fastv", "layer": 1, "rate": 0.5}'

    assert main([*asked, "--method", fastv, "--method", "text_only", "--output", str(page)]) == 0

    out = capsys.readouterr().out
    assert out.startswith("\nWhat is this?\n\nunpruned\n  "), "this model is not the testbed's"
    assert len(re.findall(r"^FastV \(K=1, R=0.5\)$", out, re.MULTILINE)) == 2
    assert re.search(r"word +rate +system +image +instruction +response", out)
    assert "visual tokens kept, of 4, mean over layers: 75% at prefill, 75% at decode" in out
    assert re.search(r"KV cache: .* saved$", out, re.MULTILINE)
    assert out.endswith(f"\n{page}\n")
    assert page.read_text("utf-8").count('<article class="answer"') == 3
    assert not list(page.parent.glob(".*.tmp"))


@pytest.mark.slow
def test_a_newcomer_sees_a_scene_and_what_the_model_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["look", "--sample", "gqa:3", "--output", str(tmp_path / "look.html")]) == 0
    out = capsys.readouterr().out
    knows = "testbed-s is a small model of this project's testbed. It knows nothing but synthetic scenes"
    assert out.startswith(knows)
    assert re.search(r"^DyRate\+ \(K=2, plus-0.4, select\)$", out, re.MULTILINE)
    assert re.search(r"^reference$", out, re.MULTILINE)
    assert knows.replace("'", "&#39;") in (tmp_path / "look.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (["--method", "fastw"], "unknown reduction method 'fastw'; did you mean 'fastv'"),
        (["--method", '{"name": "fastv", "layer": 7}'], "layer 7"),
        (["--method", "dyrate"], "reduction method 'dyrate' needs a value for predictor"),
        (["--method", "vtw", "--predictor", "x"], "--predictor x: there is nothing that it is for in vtw"),
        (["--question", " "], "--question: nothing is given"),
        (["--new-tokens", "0"], "--new-tokens: 0 is not a whole number from 1 on"),
        (["--new-tokens", "9999", "--method", "text_only"], "2048 positions"),
        (["--output", "look.png"], "--output: look.png: name an .html file"),
        (["--model", "nowhere/at/all", "--method", "fastv"], "--model nowhere/at/all"),
    ],
)
def test_a_mistake_is_one_line(
    change: list[str], refusal: str, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, *change]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "dyrate: error:" in line]
    assert len(err) == 1
    assert refusal in err[0]


def test_an_image_needs_a_question_and_a_sample_is_no_image_beside_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["look", "photo.jpg"]) == 2
    assert "--question: is missing: what shall be asked about photo.jpg?" in capsys.readouterr().err
    for wrong in (["look"], ["look", "photo.jpg", "--sample"]):
        with pytest.raises(SystemExit):
            main(wrong)
    with pytest.raises(DyrateError, match="exactly one of IMAGE and --sample must be given"):
        Look.of({})


def test_the_command_of_a_page_asks_for_it_again() -> None:
    methods = ({"name": "fastv", "layer": 1}, {"name": "vtw"})
    job = Look.of({"image": "a photo.jpg", "question": "Why?", "method": methods})
    assert job.command().startswith("dyrate look 'a photo.jpg' --question 'Why?' --method ")


def test_dyrate_takes_the_predictor_that_the_testbed_gives_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert shipped_predictor("dyrate", "models/testbed-s") == "predictors/testbed/testbed-s/plus-0.4"
    assert shipped_predictor("dyrate", "models/testbed-m") == "predictors/testbed/testbed-m/plus-1"
    assert shipped_predictor("dyrate", "llava-hf/llava-1.5-7b-hf") is None
    monkeypatch.chdir("/")
    assert shipped_predictor("dyrate", "models/testbed-s") is None


def test_what_a_model_says_does_not_steer_the_terminal(look: Found) -> None:
    assert printable("a\x1b[2Jb\n") == "a\ufffd[2Jb\n"
    answer = look["answers"][1]
    hostile = {**answer, "steps": [{**answer["steps"][0], "word": " \x1b]0;x\x07\n"}, *answer["steps"][1:]]}
    assert "\x1b" not in "".join(lines(hostile, look["visual_tokens"]))
