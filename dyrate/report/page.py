"""The HTML: the report page and the tables' twins, rendered by Jinja2 with autoescape on."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import figures
from dyrate.report.gallery import samples
from dyrate.report.measured import NONE, Measurement
from dyrate.report.provenance import facts
from dyrate.report.summary import lines
from dyrate.report.tables import Table, table1, table2
from dyrate.study import Study

TEMPLATES = Path(__file__).with_name("templates")


def table_page(table: Table, study: Study, measurements: Sequence[Measurement]) -> str:
    """A self-contained page with one table: the HTML twin of its CSV."""
    return _template("table_page.html").render(table=table, **_context(study, measurements))


def report_page(study: Study, measurements: Sequence[Measurement]) -> str:
    """The self-contained report of a study: the same text for the same result files."""
    tables = (table1(study, measurements), table2(study, measurements))
    questions, captions = (
        [name for name in study.benchmarks if (BENCHMARKS[name].group == "caption") == caption]
        for caption in (False, True)
    )
    methods = list(dict.fromkeys(m.label for m in measurements if m.method != NONE))
    model, gallery = samples(measurements, study.benchmarks, _data(study))
    return _template("report.html").render(
        tables=tables,
        summary=lines(measurements, study.benchmarks),
        differences=[
            (label, Markup(svg))
            for i, label in enumerate(methods)
            if (svg := figures.differences(label, measurements, study.benchmarks, f"d{i}"))
        ],
        tradeoffs=[
            (title, Markup(svg))
            for title, names, phase in (
                ("Questions and short answers, prefill", questions, "prefill"),
                ("Captions, decode", captions, "decode"),
            )
            if (svg := figures.tradeoff(measurements, names, phase, f"t{phase}"))
        ],
        gallery=gallery,
        gallery_model=model,
        **_context(study, measurements),
    )


def _context(study: Study, measurements: Sequence[Measurement]) -> dict[str, Any]:
    return {
        "study": study,
        "comparable": study.tasks == "hub",
        "facts": facts(study, measurements),
        "models": list(dict.fromkeys(m.model for m in measurements)),
        "benchmarks": BENCHMARKS,
        "many_decodings": len({m.decoding for m in measurements}) > 1,
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


def _template(name: str) -> Any:
    return _environment().get_template(name)


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
