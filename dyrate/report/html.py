"""Templates to HTML: Jinja2 with autoescape on, and pages that run no script but those of this package."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dyrate.report.grid import number, share, signed

TEMPLATES = Path(__file__).with_name("templates")
_INERT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def render(template: str, **context: Any) -> str:
    """The text of a page; every string is escaped that is not `Markup`."""
    return _environment().get_template(template).render(**context)


def style() -> Markup:
    """The one style sheet of all pages."""
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))


def script(*names: str) -> tuple[Markup, str]:
    """Our own scripts as one text, and the source that a content security policy lets run: its hash alone."""
    text = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"


def data_block(value: Any) -> Markup:
    """A value as JSON for a <script> that is data: whatever text it has, none of it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.translate(_INERT))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = number
    environment.filters["signed"] = signed
    environment.filters["share"] = share
    environment.filters["capfirst"] = lambda text: text[:1].upper() + text[1:]
    return environment
