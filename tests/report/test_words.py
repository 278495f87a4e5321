"""Sentences are plain text: what stands in them is as it was given, and pages escape it."""

import pytest
from jinja2 import UndefinedError

from dyrate.analysis.words import say
from dyrate.words import count, percent, share, span, word

HOSTILE = "<b>{{ 7*7 }} & 'x' &amp; \"$\"</b>"


def test_what_is_said_is_as_it_was_given():
    assert say("no_fastv", model=HOSTILE) == f"on {HOSTILE} no FastV curve reaches DyRate's budget"
    part = say("unharmed_on", model=HOSTILE, unharmed=[], compared=[1, 2], leanest=None)
    assert part == f"on {HOSTILE} 0 of 2"
    assert f": {part}; {part}." in say("unharmed", parts=[part, part])


def test_a_sentence_without_a_fact_is_refused():
    with pytest.raises(UndefinedError, match="model"):
        say("no_fastv")


def test_numbers_are_told_with_their_units():
    known, unknown = {"value": -1.25, "low": -2.0, "high": 0.5}, {"value": 98.44, "low": None, "high": None}

    assert percent(known, "+") == "−1.2% (−2.0 to +0.5)"
    assert percent(known, brackets="[]") == "−1.2% [−2.0 to 0.5]"
    assert percent(unknown) == "98.4%"
    assert (share(0.336), share(None), share(None, "–")) == ("34%", "nothing known", "–")
    assert (count(1, "loss", "losses"), count(2, "loss", "losses"), count(0, "win")) == (
        "1 loss",
        "2 losses",
        "0 wins",
    )
    assert (span([0.5, -1, 0.25], 1), span([3, 3], 0, "")) == ("−1.0 to +0.5", "3")
    assert (word(0), word(12), word(13)) == ("no", "twelve", "13")
