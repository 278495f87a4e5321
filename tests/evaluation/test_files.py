"""Files are whole or not there, whatever kills the writer; what cannot be written or read is one line."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dyrate import files
from dyrate.errors import DyrateError


def test_a_killed_write_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from dyrate import files\n"
        "with files.replacing(Path(sys.argv[1])) as new:\n"
        "    new.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".x.json.4711.tmp").write_text("left by an earlier version")
    files.write_text(path, "new")
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "new"


def _parquet(path: Path) -> None:
    with files.replacing(path) as new:
        pq.write_table(pa.table({"a": list(range(9000))}), new)


@pytest.mark.parametrize("write", [lambda path: files.write_text(path, "x" * 5000), _parquet])
def test_a_file_that_does_not_fit_is_one_line_and_the_old_one_stays(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DyrateError, match=f"{path} cannot be written: .*File too large"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def _below_a_file(path: Path) -> Path:
    path.write_text("")
    return path / "below"


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("place", [_below_a_file, _folder, lambda path: path.with_name("x" * 300)])
def test_what_is_in_the_way_is_one_line(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    with pytest.raises(DyrateError, match="cannot be written"):
        files.write_text(place(tmp_path / "x"), "new")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("keep")
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    files.write_text(tmp_path / "x", "new")
    assert (tmp_path / "elsewhere").read_text() == "keep"
    assert (tmp_path / "x").read_text() == "new"


def test_only_one_process_is_in_a_folder(tmp_path: Path) -> None:
    with files.only_one(tmp_path, "training there"):  # noqa: SIM117 - the second is what is refused
        with pytest.raises(DyrateError, match=f"{tmp_path}: another process is training there; wait"):
            with files.only_one(tmp_path, "training there"):
                pass
    with files.only_one(tmp_path, "training there"):
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1e999}', "1e999 is no number"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
    ],
)
def test_json_says_each_thing_once_in_numbers(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text, "latin-1")
    with pytest.raises(
        DyrateError, match=f"{tmp_path}/x.json: not JSON: .*{message.removeprefix('not JSON')}"
    ):
        files.read_json(tmp_path / "x.json")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(DyrateError, match=r"x\.json: cannot be read: it is a pipe"):
        files.read_json(tmp_path / "x.json")
