"""Commands see, say and end on the warm Python as on this one, and `dyrate` is the caller's."""

import os
import subprocess
import sys
from pathlib import Path
from select import select

import pytest

SHOW = """
import json, os, sys
print(json.dumps([sys.argv, os.getcwd(), os.environ["MINE"], sys.stdin.read(), __name__, sys.path[0]]))
print("beside", file=sys.stderr)
"""
FILE = "show.py"
COMMANDS = {
    "text": ["-c", SHOW, "a", "-b c"],
    "file": [FILE, "a"],
    "module": ["-m", "show", "-m", "a"],
    "status": ["-c", "import sys; sys.exit(7)"],
    "words": ["-c", "raise SystemExit('this is wrong')"],
    "killed": ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
    "terminated": ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"],
    "nothing is left": ["-c", "import sys; print('dyrate' in sys.modules)"],
    "version": ["--version"],
}


def run(python: Path, folder: Path, command: list[str]) -> tuple[int, str, str]:
    environment = {**os.environ, "MINE": "ä", "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, *command],
        cwd=folder,
        env=environment,
        input="in",
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_it_does_what_this_python_does(command: list[str], warm: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(SHOW)
    expected = run(Path(sys.executable), tmp_path, command)

    assert run(warm / "python", tmp_path, command) == expected


def test_libraries_are_there_and_dyrate_is_the_callers(warm: Path, tmp_path: Path) -> None:
    (tmp_path / "dyrate").mkdir()
    (tmp_path / "dyrate/__init__.py").write_text("whose = 'the caller’s'")
    code = "import dyrate, sys; print(dyrate.whose, 'torch' in sys.modules)"

    assert run(warm / "python", tmp_path, ["-c", code])[1] == "the caller’s True\n"


def test_a_variable_that_a_library_reads_when_it_is_imported_is_heeded(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from huggingface_hub import constants; print(constants.ENDPOINT)"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")

    assert run(warm / "python", tmp_path, ["-c", code])[1] == "http://127.0.0.1:1\n"


def test_who_gives_up_takes_the_command_along(warm: Path, tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([warm / "python", "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        command = os.pidfd_open(int(caller.stdout.readline()))
        caller.kill()
    assert select([command], [], [], 60)[0]
    os.close(command)
