"""The report's templates to HTML, and its data into pages."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from dyrate.analysis.measurement import grouped
from dyrate.report.grid import number, share, signed
from dyrate.self_contained import templates

TEMPLATES = Path(__file__).with_name("templates")
_INERT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def render(template: str, **context: Any) -> str:
    """The text of a page; every string is escaped that is not `Markup`."""
    return _environment().get_template(template).render(**context)


def data_block(value: Any) -> Markup:
    """A value as JSON for a <script> that is data: whatever text it has, none of it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.translate(_INERT))


@cache
def _environment() -> Environment:
    environment = templates(TEMPLATES)
    environment.filters["number"] = number
    environment.filters["signed"] = signed
    environment.filters["share"] = share
    environment.filters["by_reason"] = lambda missing: grouped(missing, lambda one: one.why).items()
    environment.filters["capfirst"] = lambda text: text[:1].upper() + text[1:]
    return environment
