"""What is made ahead comes in order, and so do its errors."""

from threading import current_thread, main_thread

import pytest

from dyrate.evaluation.ahead import made_ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_everything_comes_once_and_in_order(count: int, threads: int) -> None:
    assert list(made_ahead(str, range(count), threads)) == [str(number) for number in range(count)]


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_when_its_item_does(threads: int) -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    ready = made_ahead(make, range(6), threads)
    assert [next(ready) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(ready)


def test_whoever_leaves_early_waits_for_nothing_more() -> None:
    begun: list[int] = []
    ready = made_ahead(lambda number: begun.append(number), range(100), 2)
    next(ready)
    ready.close()  # type: ignore[attr-defined]
    assert len(begun) <= 6


def test_threads_make_and_without_any_the_caller_does() -> None:
    assert set(made_ahead(lambda _: current_thread() is main_thread(), range(3), 0)) == {True}
    assert set(made_ahead(lambda _: current_thread() is main_thread(), range(3), 2)) == {False}
