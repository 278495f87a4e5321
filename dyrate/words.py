"""Prose lives in templates: sentences on what was found are macros of `sentences.jinja`, filled here."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment
from markupsafe import Markup

from dyrate.self_contained import templates

_NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip


class Say(Protocol):
    """Says a sentence as plain text; who puts it into a page escapes it there."""

    def __call__(self, sentence: str, /, **facts: Any) -> str:
        """The sentence of that name, filled."""


def sentences(folder: Path) -> Say:
    """What says the sentences of a folder's `sentences.jinja`."""

    def say(sentence: str, /, **facts: Any) -> str:
        macros = _environment(folder).get_template("sentences.jinja").module
        return Markup(getattr(macros, sentence)(**facts).strip()).unescape()

    return say


def interval(value: Mapping[str, Any], sign: str = "", unit: str = "", brackets: str = "()") -> str:
    """A number with its interval, if it has one: "+1.2 (0.3 to 2.1)"."""
    number, low, high = (
        None if end is None else f"{end:{sign}.1f}".replace("-", "−")
        for end in (value["value"], value["low"], value["high"])
    )
    ends = "" if low is None or high is None else f" {brackets[0]}{low} to {high}{brackets[1]}"
    return f"{number}{unit}{ends}"


def percent(value: Mapping[str, Any], sign: str = "", brackets: str = "()") -> str:
    """The same of a percentage: "98.4% (97.0 to 99.9)"."""
    return interval(value, sign, "%", brackets)


def share(value: float | None, unknown: str = "nothing known") -> str:
    """A share in percent."""
    return unknown if value is None else f"{100 * value:.0f}%"


def count(number: int, one: str, many: str = "") -> str:
    """A number of things: "1 win", "2 wins"."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def span(values: Sequence[float], digits: int = 0, sign: str = "+") -> str:
    """The least and the greatest of some numbers, as "−7.0 to −6.7"."""
    ends = [f"{value:{sign}.{digits}f}".replace("-", "−") for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def word(number: int) -> str:
    """A small number as a word."""
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


@cache
def _environment(folder: Path) -> Environment:
    environment = templates(folder)
    told = (interval, percent, share, count, span, word)
    environment.filters |= {filter_.__name__: filter_ for filter_ in told}
    return environment
