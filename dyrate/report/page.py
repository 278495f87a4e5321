"""The HTML: the report page and the tables' twins, rendered by Jinja2 with autoescape on."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import figures
from dyrate.report.gallery import cards
from dyrate.report.measured import Measurement, source
from dyrate.report.provenance import facts
from dyrate.report.summary import lines
from dyrate.report.tables import Table, heading, table1, table2
from dyrate.study import Study

TEMPLATES = Path(__file__).with_name("templates")


def table_page(table: Table, study: Study, measurements: Sequence[Measurement]) -> str:
    """A self-contained page with one table: the HTML twin of its CSV."""
    return _render("table_page.html", table=table, **_context(study, measurements))


def report_page(study: Study, measurements: Sequence[Measurement]) -> str:
    """The self-contained report of a study: the same text for the same result files."""
    tables = (table1(study, measurements), table2(study, measurements))
    questions, captions = (
        [name for name in study.benchmarks if (BENCHMARKS[name].group == "caption") == caption]
        for caption in (False, True)
    )
    model, gallery = cards(measurements, study.benchmarks, _data(study))
    return _render(
        "report.html",
        tables=tables,
        summary=lines(measurements, study.benchmarks),
        differences=[
            (" / ".join(dict.fromkeys(m.label for m in shown)), Markup(svg))
            for i, shown in enumerate(figures.panels(measurements))
            if (svg := figures.differences(shown, measurements, study.benchmarks, f"d{i}"))
        ],
        tradeoffs=[
            (f"{title}, {m}", Markup(svg))
            for title, names, phase in (
                ("Questions and short answers", questions, "prefill"),
                ("Captions", captions, "decode"),
            )
            for i, m in enumerate(dict.fromkeys(m.model for m in measurements))
            if (svg := figures.tradeoff(m, measurements, names, phase, f"{phase}{i}"))
        ],
        gallery=gallery,
        gallery_model=model,
        **_context(study, measurements),
    )


def _context(study: Study, measurements: Sequence[Measurement]) -> dict[str, Any]:
    return {
        "study": study,
        "source": source(study, measurements),
        "facts": facts(study, measurements),
        "models": list(dict.fromkeys(m.model for m in measurements)),
        "heading": heading,
        "many_decodings": len({m.decoding for m in measurements}) > 1,
        "config": yaml.safe_dump(dict(study.config), sort_keys=False, allow_unicode=True),
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    }


def _data(study: Study) -> Path | None:
    return Path(study.config["data"]) if study.tasks == "testbed" else None


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
    return environment


def _render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context)


def number(value: float, unit: str = "") -> str:
    """A score as the tables print it: points without decimals, everything else with one."""
    return f"{value:.0f}" if unit == "points" else f"{value:.1f}"


def signed(value: float, unit: str = "") -> str:
    """A difference with its sign: a true minus, and no sign on zero."""
    text = number(abs(value), unit)
    if float(text) == 0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"


def share(value: float | None) -> str:
    """A share as a percentage, an en dash where nobody counted."""
    return "–" if value is None else f"{100 * value:.0f}%"
