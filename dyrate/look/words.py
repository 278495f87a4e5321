"""The rate by class of word: which words of an answer were made with fewer visual tokens.

No tagger: a word is a function word where it stands in a closed list of English ones, a number where it is
digits or a numeral up to twelve, and a content word otherwise.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from dyrate.look.record import Answer, Look, Step

_FUNCTION = (
    "a an the this that these those it its he she they his her their there here and or but nor so as if "
    "than of in on at by to for with from into over under above below behind beside between near around "
    "along across up down out off is are was were be been being am has have had do does did can could "
    "will would may might must not no yes who which what where when while some any each every all both "
    "other another such very too also"
)
FUNCTION = frozenset(_FUNCTION.split())
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBERS = frozenset(_NUMBERS.split())
CLASSES = ("content word", "function word", "number", "sign or end")


@dataclass(frozen=True)
class WordClass:
    """One class of words in a method's answers: how many there are, and their rates."""

    name: str
    words: int
    mean: float
    low: float
    """First quartile; `high` is the third."""
    high: float


def words(steps: Sequence[Step]) -> Iterator[tuple[str, float]]:
    """Each word of an answer and its rate, a mean over the tokens that make it; signs stand by themselves."""
    said, rates = "", list[float]()
    for step in steps:
        text = step["word"]
        if rates and not (text and text.strip() and text[0].isalnum() and said[-1:].isalnum()):
            yield said.strip(), fmean(rates)
            said, rates = "", []
        said += text
        rates.append(step["rate"])
    if rates:
        yield said.strip(), fmean(rates)


def word_class(word: str) -> str:
    """Which of `CLASSES` a word is in."""
    plain = re.sub(r"\W", "", word).lower()
    if not plain:
        return "sign or end"
    if plain.isdecimal() or plain in NUMBERS:
        return "number"
    return "function word" if plain in FUNCTION else "content word"


def rates_by_class(looks: Iterable[Look]) -> list[tuple[str, list[WordClass]]]:
    """By method whose rate varies: its classes of words, over all answers of more than one word."""
    answers: dict[str, list[Answer]] = {}
    for look in looks:
        for answer in look["answers"]:
            if len(answer["steps"]) > 2:  # a word and the end are no answer that grows
                answers.setdefault(answer["label"], []).append(answer)
    found = []
    for label, given in answers.items():
        rates: dict[str, list[float]] = {}
        for answer in given:
            for word, rate in words(answer["steps"][1:]):  # the first comes of the prompt
                rates.setdefault(word_class(word), []).append(rate)
        if len({rate for known in rates.values() for rate in known}) > 1:
            found.append((label, [_summed(name, rates[name]) for name in CLASSES if name in rates]))
    return found


def _summed(name: str, rates: Sequence[float]) -> WordClass:
    low, _, high = quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else [rates[0]] * 3
    return WordClass(name, len(rates), fmean(rates), low, high)
