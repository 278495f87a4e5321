"""The fenced blocks of a page, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HISTORY = {DOCS / "log.md", *(DOCS / "log").glob("*.md")}  # of commands and files that may be gone
PAGES = sorted(
    {
        *(path for path in DOCS.rglob("*.md") if path not in HISTORY),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "examples/README.md")),
    }
)
_BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    title: str
    """Of a file: its path in the repository."""
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found.groups(default="")) for found in _BLOCK.finditer(page.read_text("utf-8"))]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, without its comment, and the lines that it is said to print."""
    command, printed = "", []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.startswith("$ "):
            printed.append(line)
            continue
        if command:
            yield command, printed
        command, printed = line.removeprefix("$ "), []
    if command:
        yield command, printed


def words(command: str) -> list[str]:
    """The words of a command as a shell takes them, without comments and what is set before it."""
    found = shlex.split(command, comments=True)
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
        del found[0]
    return found


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
