"""What is wrong with a record of what people write is said, each mistake once."""

from typing import Annotated

import pytest
from pydantic import Field, Strict
from typing_extensions import TypedDict

from dyrate.errors import DyrateError
from dyrate.typed import Record, check


class Pairs(Record):
    pair: Annotated[tuple[int, int], Strict(False)] = (0, 1)
    pairs: Annotated[tuple[Annotated[tuple[int, int], Strict(False)], ...], Strict(False)] = ()
    three: Annotated[tuple[int, ...], Strict(False), Field(min_length=3)] = (0, 1, 2)


class File(TypedDict):
    two: Annotated[list[int], Field(min_length=2)]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"pair": [1]}, "pair.1 is missing"),
        ({"pairs": [[1, 2], [3]]}, "pairs.1.1 is missing"),
        ({"three": []}, "three: nothing is given"),
        ({"three": [1, 2]}, "three: [1, 2] has 2 of at least 3 entries"),
        ({"three": [1, "x", 3]}, "three.1: 'x' is not a whole number"),
        (
            {"three": [1], "pair": ["x", 2]},
            "pair.0: 'x' is not a whole number\nthree: [1] has 1 of at least 3 entries",
        ),
    ],
    ids=str,
)
def test_a_list_of_the_wrong_length_is_told(given, complaint):
    with pytest.raises(DyrateError) as caught:
        Pairs.of(given)
    assert str(caught.value) == complaint


def test_so_it_is_in_a_file(tmp_path):
    with pytest.raises(DyrateError) as caught:
        check(File, {"two": [1]}, tmp_path / "a.json", DyrateError)
    assert str(caught.value) == f"{tmp_path}/a.json: two: [1] has 1 of at least 2 entries"
