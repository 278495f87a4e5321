"""Renders the pages by Jinja2 with autoescape on; the one script of theirs sets text as text. No torch."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from dyrate.look.record import CLASSES, Answer, Look, Survival, in_order
from dyrate.look.words import rates_by_class
from dyrate.self_contained import script, style, templates

_TEMPLATES = Path(__file__).with_name("templates")


def look_page(look: Look, knows: str = "", command: str = "") -> str:
    """One self-contained page of one look; `knows` is what must be said of the model, if anything, and
    `command` what made the page.
    """
    return _render("look.html", look=look, knows=knows, command=command)


def survival_page(records: Sequence[Survival]) -> str:
    """One self-contained page of a study's records, model by model."""
    return _render("survival.html", records=records, study=records[0]["study"])


def _render(template: str, **context: Any) -> str:
    text, source = script(_TEMPLATES, "look.js")
    return (
        _environment()
        .get_template(template)
        .render(
            script=text,
            # One script may run, and nothing comes from anywhere.
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {source}",
            style=style(_TEMPLATES, "look.css"),
            classes=CLASSES,
            **context,
        )
    )


def drawn(look: Look) -> dict[str, Any]:
    """What the script needs of a look: the places of tokens, and which of them live in how many layers."""
    return {
        "places": look["picture"]["places"],
        "tokens": look["visual_tokens"],
        "answers": [_drawn(answer) for answer in look["answers"]],
    }


def _drawn(answer: Answer) -> Mapping[str, Any]:
    return {
        "sets": answer["sets"],
        "steps": [
            {
                "word": step["word"],
                "rate": step["rate"],
                "mass": [round(share, 4) for share in in_order(step["mass"])],
                "sets": step["sets"],
            }
            for step in answer["steps"]
        ],
    }


@cache
def _environment() -> Environment:
    environment = templates(_TEMPLATES)
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.0f}%"
    environment.filters["drawn"] = drawn
    environment.filters["rates_by_class"] = rates_by_class
    environment.filters["saved"] = lambda a: f"{1 - a['kv_bytes'] / a['kv_bytes_whole']:.0%}"
    environment.filters["kib"] = lambda number: f"{number / 1024:,.0f} KiB"
    return environment
