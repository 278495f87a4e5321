"""Two processes never take one GPU, and one that is killed gives back what it had; the GPUs are made up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrate import gpus
from dyrate.errors import DyrateError

HOLD = """
import sys, time
from pathlib import Path
from dyrate import gpus
print(gpus.take(sys.argv[2:], Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    gpus.release()
    yield
    gpus.release()


def hold(folder: Path, *identities: str) -> tuple["subprocess.Popen[str]", int]:
    """A process that has taken a GPU, and which."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *identities], text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_each_process_gets_its_own_and_keeps_it(tmp_path: Path) -> None:
    first, index = hold(tmp_path, "a", "b", "c")
    try:
        assert index == 0
        assert gpus.take(["a", "b", "c"], tmp_path) == 1
        assert gpus.take(["a", "b", "c"], tmp_path) == 1
        # Another order, as another process may see them, changes nothing.
        assert gpus.take(["c", "b", "a"], tmp_path) == 1
        gpus.release()
        assert gpus.take(["c", "a"], tmp_path) == 0
    finally:
        first.kill()
        first.wait()


def test_what_is_held_is_waited_for_and_the_holder_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other, _ = hold(tmp_path, "a")

    def kill(seconds: float) -> None:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()

    monkeypatch.setattr(time, "sleep", kill)
    assert gpus.take(["a"], tmp_path) == 0
    assert capsys.readouterr().err == f"waiting for a GPU: held by process {other.pid}\n"


def test_a_model_over_several_takes_all(tmp_path: Path) -> None:
    gpus.take_all(["b", "a"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.lock", "b.lock"]
    assert gpus.take(["b", "a"], tmp_path) == 0
    gpus.release()
    other, index = hold(tmp_path, "b", "a")
    try:
        assert index == 0, "all were given back"
    finally:
        other.kill()
        other.wait()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DyrateError, match=r"a\.lock: cannot be written: .*; it says which process has a GPU"):
        gpus.take(["a"], tmp_path / "file")
