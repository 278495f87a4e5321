"""The rate by class of word: tokens make words, a closed list sorts them, and fixed rates say nothing."""

import pytest

from dyrate.look.record import Answer, Look, Step
from dyrate.look.words import rates_by_class, word_class, words


def steps(*said: tuple[str, float]) -> list[Step]:
    mass = {"sys": 0.25, "img": 0.25, "ins": 0.25, "res": 0.25}
    return [{"word": word, "mass": mass, "rate": rate, "sets": [0]} for word, rate in said]  # type: ignore[typeddict-item]


def look(label: str, *said: tuple[str, float]) -> Look:
    answer: Answer = {"label": label, "steps": steps(*said)}  # type: ignore[typeddict-item]
    return {"answers": [answer]}  # type: ignore[typeddict-item]


def test_pieces_are_one_word_and_signs_stand_alone() -> None:
    found = list(
        words(steps(("a", 0.1), (" tri", 0.2), ("angle", 0.4), (",", 0.5), (" red", 0.6), ("", 0.9)))
    )

    assert [word for word, _ in found] == ["a", "triangle", ",", "red", ""]
    assert [rate for _, rate in found] == pytest.approx([0.1, 0.3, 0.5, 0.6, 0.9])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("The", "function word"), ("of", "function word"), ("triangle", "content word"), ("Two", "number"),
        ("12", "number"), (".", "sign or end"), ("", "sign or end"), ("HARBOUR", "content word"),
    ],
)  # fmt: skip
def test_classes_are_of_a_closed_list(word: str, expected: str) -> None:
    assert word_class(word) == expected


def test_rates_are_summed_by_method_and_class_and_fixed_ones_left_out() -> None:
    said = (("a", 0.9), (" red", 0.2), (" cat", 0.4), (" on", 0.6), ("", 0.8))
    found = rates_by_class(
        [look("DyRate", *said), look("DyRate", *said), look("FastV", ("a", 0.5), (" b", 0.5), ("", 0.5))]
    )

    ((label, classes),) = found
    assert label == "DyRate"
    assert [(one.name, one.words) for one in classes] == [
        ("content word", 4),
        ("function word", 2),
        ("sign or end", 2),
    ]
    assert classes[0].mean == pytest.approx(0.3)
    assert (classes[0].low, classes[0].high) == pytest.approx((0.2, 0.4))


def test_short_answers_are_no_text() -> None:
    assert rates_by_class([look("DyRate", ("red", 0.2), ("", 0.9))]) == []
