"""Self-contained HTML: Jinja2 with autoescape on, and pages that run no script but those of this package."""

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


@cache
def templates(folder: Path) -> Environment:
    """The templates of a folder: every string is escaped that is not `Markup`, and no name may be unknown."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def style(folder: Path, name: str) -> Markup:
    """A style sheet's text."""
    return Markup((folder / name).read_text(encoding="utf-8"))


def script(folder: Path, *names: str) -> tuple[Markup, str]:
    """Our own scripts as one text, and the source that a content security policy lets run: its hash alone."""
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"
