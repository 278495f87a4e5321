"""The preflight that a study begins with: a process of its own, whose findings stay in the study's logs."""

import subprocess
import sys
from pathlib import Path

from dyrate.files import make_folder, write_text
from dyrate.study import Study


def log(study: Study, ending: str) -> Path:
    """Where its config (json), its findings (txt) and what else it said (log) are."""
    return Path("results", study.name, "logs", f"preflight.{ending}")


def look(study: Study, elsewhere: bool) -> list[str]:
    """Look at what the study needs; returns the lines on what would fail, with their cures."""
    config, found, said = (log(study, ending) for ending in ("json", "txt", "log"))
    make_folder(config.parent)
    write_text(config, study.to_json())
    command = [sys.executable, "-m", "dyrate.cli", "preflight", "--configfile", str(config)]
    with found.open("wb") as findings, said.open("wb") as rest:
        done = subprocess.run(
            [*command, *["--elsewhere"] * elsewhere], stdout=findings, stderr=rest, check=False
        )
    if done.returncode == 0:
        return []
    return _failing(found.read_text("utf-8")) or [f"the preflight itself did: see {said}"]


def _failing(table: str) -> list[str]:
    lines, taking = [], False
    for line in table.splitlines():
        taking = line.startswith("fails ") or (taking and line.startswith(" "))
        lines += [line] * taking
    return lines
