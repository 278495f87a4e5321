"""A page is made of files: what draws it loads neither torch nor transformers, which take a long time."""

import subprocess
import sys
from pathlib import Path

import pytest

from dyrate.files import write_text

SOURCE = """
import sys
from dyrate.cli import main
status = main(sys.argv[1:])
print(status, *(name for name in ("torch", "transformers", "lmms_eval") if name in sys.modules))
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("tables", "--output", "tables"), ("report", "--output", "page/index.html"), ("table",)],
    ids=lambda command: command[0],
)
def test_what_is_drawn_from_files_loads_no_torch(small, command):
    study, _ = small
    write_text(Path("study.json"), study.to_json())
    arguments = [sys.executable, "-c", SOURCE, command[0], "--study", "study.json", *command[1:]]

    done = subprocess.run(
        arguments, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False
    )

    assert done.stdout.splitlines()[-1:] == ["0"], done.stderr
