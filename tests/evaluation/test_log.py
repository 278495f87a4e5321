"""The response log: whole batches or nothing, and damage is never overlooked."""

from pathlib import Path

import pytest

from dyrate.errors import DyrateError
from dyrate.evaluation.log import ResponseLog, content_key

BATCHES = [(["a", "b"], ["one", "two\nlines é"]), (["c"], ["three"]), (["d", "e"], ["", "five"])]


def _fill(path: Path, batches: list = BATCHES) -> bytes:
    with ResponseLog(path) as log:
        for keys, answers in batches:
            log.append(keys, answers, None)
    return path.read_bytes()


def test_what_is_appended_is_found_again_in_a_new_process(tmp_path: Path) -> None:
    _fill(tmp_path / "x.jsonl")
    with ResponseLog(tmp_path / "x.jsonl") as log:
        assert len(log) == 3
        assert log.get(["a", "b"])["answers"] == ["one", "two\nlines é"]


@pytest.mark.parametrize("keys", [["b", "a"], ["a"], ["a", "b", "c"], ["ab"]])
def test_only_exactly_the_same_batch_is_reused(tmp_path: Path, keys: list[str]) -> None:
    _fill(tmp_path / "x.jsonl")
    with ResponseLog(tmp_path / "x.jsonl") as log:
        assert log.get(keys) is None


def test_a_torn_last_line_is_dropped_with_a_notice_wherever_it_is_torn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _fill(tmp_path / "x.jsonl")
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1])
    for cut in (start + 1, start + len(lines[-1]) // 2, len(whole) - 1):
        (tmp_path / "x.jsonl").write_bytes(whole[:cut])
        notices: list[str] = []
        from loguru import logger

        sink = logger.add(lambda message, into=notices: into.append(str(message)))
        with ResponseLog(tmp_path / "x.jsonl") as log:
            assert len(log) == 2
            log.append(*BATCHES[2], None)
        logger.remove(sink)
        assert "torn last line" in "".join(notices)
        assert (tmp_path / "x.jsonl").read_bytes() == whole


@pytest.mark.parametrize("line", [0, 1])
@pytest.mark.parametrize(
    "damage", [lambda x: b"{\n", lambda x: x.replace(b"one", b"1") and b"\n", lambda x: x[5:]]
)
def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path, line: int, damage) -> None:
    lines = _fill(tmp_path / "x.jsonl").splitlines(keepends=True)
    lines[line] = damage(lines[line])
    (tmp_path / "x.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(DyrateError, match=rf"x.jsonl: line {line + 1} is damaged"):
        ResponseLog(tmp_path / "x.jsonl")


def test_a_line_whose_keys_were_changed_is_an_error(tmp_path: Path) -> None:
    content = _fill(tmp_path / "x.jsonl").replace(b'"keys": ["c"]', b'"keys": ["z"]')
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DyrateError, match="line 2 is damaged"):
        ResponseLog(tmp_path / "x.jsonl")


def test_a_log_that_is_open_is_refused_and_free_again_when_closed(tmp_path: Path) -> None:
    message = r"x\.jsonl: another process is writing this log"
    with ResponseLog(tmp_path / "x.jsonl"), pytest.raises(DyrateError, match=message):
        ResponseLog(tmp_path / "x.jsonl")
    with ResponseLog(tmp_path / "x.jsonl") as log:
        log.append(["a"], ["one"], None)


def test_without_a_path_nothing_is_kept() -> None:
    with ResponseLog(None) as log:
        log.append(["a"], ["one"], None)
        assert log.get(["a"])["answers"] == ["one"]


def test_keys_of_different_parts_differ() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), (b"abc", ""), ("abc", "", "")]
    assert len({content_key(*part) for part in parts}) == len(parts)
