"""The response log: whole batches or nothing, and damage is never overlooked."""

import errno
import json
import os
from pathlib import Path

import pytest
from loguru import logger

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


TOKENS = {"samples": 1, "visual": 6, "prefill": [6, 3], "decode": [6, 3], "steps": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"three"', '"thre3"'),
        ('["one", "two"]', '["two", "one"]'),
        ('"visual": 6', '"visual": 7'),
        ('"steps": 1', '"steps": 1, "steps": 2'),
        ('"tokens"', '"token"'),
        ('"steps": 1', '"steps": NaN'),
        ('"version": 2', '"version": 3'),
    ],
)
def test_a_changed_answer_or_count_is_an_error_once_and_then_computed_again(
    tmp_path: Path, old: str, new: str
) -> None:
    path = tmp_path / "x.jsonl"
    batches = [(["a", "b"], ["one", "two"], TOKENS), (["c"], ["three"], TOKENS), (["d"], ["four"], None)]
    with ResponseLog(path) as log:
        for batch in batches:
            log.append(*batch)
    whole = path.read_bytes()
    changed = whole.replace(old.encode(), new.encode())
    assert changed != whole
    path.write_bytes(changed)
    with pytest.raises(
        DyrateError, match=r"x\.jsonl: line \d is damaged .*set aside as x\.jsonl\.damaged\. Give"
    ):
        ResponseLog(path)
    assert (tmp_path / "x.jsonl.damaged").read_bytes() == changed
    with ResponseLog(path) as log:  # the next run needs no hand
        for keys, answers, tokens in batches:
            if (found := log.get(keys)) is None:
                log.append(keys, answers, tokens)
            else:
                assert found["answers"] == answers
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_two_lines_that_contradict_each_other_are_an_error_and_neither_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    first, second = _fill(tmp_path / "a", BATCHES[:2]), _fill(tmp_path / "b", [(["c"], ["another"])])
    path.write_bytes(first + second + first)
    with pytest.raises(DyrateError, match=r"line 3 is damaged \(it contradicts an earlier line"):
        ResponseLog(path)
    with ResponseLog(path) as log:
        assert log.get(["c"]) is None
        assert log.get(["a", "b"])["answers"] == BATCHES[0][1]


def test_lines_of_the_version_without_hashes_are_run_again_with_one_notice(tmp_path: Path) -> None:
    path, old = tmp_path / "x.jsonl", {"batch": content_key("c"), "keys": ["c"], "answers": ["forged"]}
    path.write_text(2 * (json.dumps(old) + "\n"))
    notices: list[str] = []
    sink = logger.add(lambda message: notices.append(str(message)))
    with ResponseLog(path) as log:
        assert log.get(["c"]) is None
        log.append(["c"], ["three"], None)
    logger.remove(sink)
    assert len(notices) == 1
    assert "2 batches of an older version are run again" in notices[0]
    with ResponseLog(path) as log:
        assert log.get(["c"])["answers"] == ["three"]


def _link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("keep")
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [(_link, "is a link"), (Path.mkdir, "no regular file"), (os.mkfifo, "no regular file")],
)
def test_what_is_no_file_in_the_logs_place_is_refused(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "x.jsonl")
    with pytest.raises(DyrateError, match=rf"x\.jsonl {message}|x\.jsonl is {message}"):
        ResponseLog(tmp_path / "x.jsonl")
    assert not (tmp_path / "elsewhere").exists() or (tmp_path / "elsewhere").read_text() == "keep"


def test_a_full_disk_is_one_line_and_loses_only_the_batch_that_did_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    write, full = os.write, [False]

    def tight(descriptor: int, data: bytes) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        full[0] = len(data) > 5
        return write(descriptor, data[:5])

    whole = _fill(path, BATCHES[:1])
    with ResponseLog(path) as log:
        monkeypatch.setattr(os, "write", tight)
        with pytest.raises(DyrateError, match=r"x\.jsonl cannot be written: No space left on device"):
            log.append(*BATCHES[1], None)
    monkeypatch.undo()
    assert path.read_bytes()[: len(whole)] == whole
    assert _fill(path, BATCHES[1:]) == _fill(tmp_path / "undisturbed.jsonl")


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
