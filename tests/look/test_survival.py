"""A study's samples looked at again: which ones, under what, and what does not belong together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dyrate.cli import main
from dyrate.errors import DyrateError
from dyrate.evaluation.scoring import Sample
from dyrate.look.record import read
from dyrate.look.survival import choose
from tests.evaluation.stand_ins import make_benchmark

FASTV = '{"name": "fastv", "layer": 1, "rate": 0.5}'
BENCHMARKS = ["gqa", "nocaps"]


def sample(row: int, right: float) -> Sample:
    return Sample(row, str(row), "", "", "", ["yes"], {"exact_match": right})


def given(unpruned: list[float], reduced: list[float]) -> list:
    answers = [{"gqa": [sample(i, right) for i, right in enumerate(one)]} for one in (unpruned, reduced)]
    labels = ("unpruned", "FastV")
    return [({"label": label}, found) for label, found in zip(labels, answers, strict=True)]


def test_wins_and_losses_are_shown_and_the_rest_is_drawn() -> None:
    old, new = [0, 0, 1, 1, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 0, 1, 1, 1]
    found = choose(given(old, new), ["gqa"], 6, seed=0)
    assert [(one.row, one.why.partition(":")[0]) for one in found[:4]] == [
        (1, "largest win of FastV"),
        (7, "largest win of FastV"),
        (2, "largest loss of FastV"),
        (4, "largest loss of FastV"),
    ]
    assert [one.why for one in found[4:]] == ["drawn at random"] * 2
    assert len({one.row for one in found}) == 6
    assert found == choose(given(old, new), ["gqa"], 6, seed=0)
    assert found[4:] != choose(given(old, new), ["gqa"], 6, seed=1)[4:]


def test_where_nothing_moved_all_are_drawn_and_there_are_no_more_than_there_are() -> None:
    found = choose(given([1, 0, 1], [1, 0, 1]), ["gqa"], 6, seed=0)
    assert sorted(one.row for one in found) == [0, 1, 2]
    assert {one.why for one in found} == {"drawn at random"}


@pytest.fixture(scope="module")
def study(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and results of the unpruned model and of two methods."""
    folder = tmp_path_factory.mktemp("study")
    for name in BENCHMARKS:
        make_benchmark(folder, name, 8)
    asked = ["evaluate", "--model", str(checkpoint), "--data", str(folder), "--samples", "6"]
    for name, method in (("none", "none"), ("fastv", FASTV), ("text_only", "text_only")):
        output = ["--method", method, "--benchmarks", *BENCHMARKS, "--output", str(folder / name)]
        assert main([*asked, "--metrics", "primary", *output]) == 0
    return folder


def survive(study: Path, checkpoint: Path, output: Path, *results: str) -> int:
    asked = ["survival", "--model", str(checkpoint), "--data", str(study), "--samples", "6", "--shown", "3"]
    paths = [str(study / name / "greedy.json") for name in results]
    return main([*asked, "--benchmarks", *BENCHMARKS, "--results", *paths, "--output", str(output)])


def test_the_record_has_the_studys_answers_and_the_page_is_drawn_from_it(
    study: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out/tiny.json"
    assert survive(study, checkpoint, path, "none", "fastv", "text_only") == 0
    found = read(path)
    assert len(found["looks"]) == 3
    for look in found["looks"]:
        assert [answer["method"]["name"] for answer in look["answers"]] == ["none", "fastv", "text_only"]
        assert all(isinstance(answer["score"], float) for answer in look["answers"])
        assert look["references"]

    assert main(["survival-page", str(path), "--output", str(tmp_path / "survival.html")]) == 0
    page = (tmp_path / "survival.html").read_text("utf-8")
    assert page.count('<section class="look"') == 3
    assert 'href="index.html"' in page

    before = path.read_bytes()
    assert survive(study, checkpoint, path, "none", "fastv", "text_only") == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("results", "refusal"),
    [
        (("fastv", "none"), "the unpruned model's result comes first, and once"),
        (("none", "none"), "the unpruned model's result comes first, and once"),
        (("none", "nowhere"), "nowhere/greedy.json"),
        (("none",), "--results: a result beside the unpruned model's is wanted"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(
    results: tuple[str, ...],
    refusal: str,
    study: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert survive(study, checkpoint, tmp_path / "tiny.json", *results) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "dyrate: error:" in line]
    assert len(errors) == 1
    assert refusal in errors[0]
    assert not (tmp_path / "tiny.json").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"hashes": {"weights": "0" * 64}},
            r"its weights have the hash 0+, those found now .*evaluate again",
        ),
        ({"pixels": [64, 1024]}, "its images have --pixels 64 1024: ask with the same"),
    ],
)
def test_results_of_other_weights_or_images_are_refused(
    changed: dict[str, Any],
    message: str,
    study: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = study / "none/greedy.json"
    whole = result.read_text("utf-8")
    document = json.loads(whole)
    document["meta"] |= {**changed, "hashes": {**document["meta"]["hashes"], **changed.get("hashes", {})}}
    result.write_text(json.dumps(document))
    try:
        assert survive(study, checkpoint, tmp_path / "tiny.json", "none", "fastv") == 2
    finally:
        result.write_text(whole)
    assert re.search(message, capsys.readouterr().err)


def test_a_method_that_fails_on_a_sample_costs_its_own_answer(
    study: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dyrate.methods.text_only import TextOnly

    def fails(self: object, view: object) -> None:
        raise DyrateError("no view today")

    monkeypatch.setattr(TextOnly, "prefill", fails)
    part, whole = tmp_path / "tiny.partial.json", tmp_path / "tiny.json"
    assert survive(study, checkpoint, whole, "none", "fastv", "text_only") == 1
    assert not whole.exists()
    for look in read(part)["looks"]:
        assert [answer["method"]["name"] for answer in look["answers"]] == ["none", "fastv"]
        [why] = look["failed"].values()
        assert "no view today" in why
    assert "no view today" in capsys.readouterr().err

    monkeypatch.undo()
    assert survive(study, checkpoint, whole, "none", "fastv", "text_only") == 0
    assert whole.exists()
    assert not part.exists()
