"""The HTML: the report page and the tables' twins, rendered by Jinja2 with autoescape on."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dyrate.analysis import cost, pareto
from dyrate.analysis.cells import Table
from dyrate.analysis.claims import default_standings
from dyrate.analysis.contents import gather
from dyrate.analysis.equal_budget import Standing
from dyrate.analysis.measurements import Measurement, source
from dyrate.analysis.missing import Missing
from dyrate.analysis.predictor_settings import choices
from dyrate.analysis.summary import lines
from dyrate.analysis.tables import heading
from dyrate.cost.flops import CONVENTIONS, SCOPES
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import figures, ranking
from dyrate.report.attention import attention
from dyrate.report.gallery import cards
from dyrate.report.grid import number, share, signed
from dyrate.report.provenance import facts
from dyrate.report.speed.choosing import choosing
from dyrate.report.speed.section import speed
from dyrate.speed import documents
from dyrate.speed.documents import METHODS
from dyrate.study import Study

COSTED = ("nocaps", "gqa")  # long answers and short ones: what their FLOPs are spent on differs
TEMPLATES = Path(__file__).with_name("templates")


def table_page(
    table: Table, study: Study, measurements: Sequence[Measurement], missing: Sequence[Missing] = ()
) -> str:
    """A self-contained page with one table: the HTML twin of its CSV."""
    measured = [m for m in measurements if m.measured]
    return _render("table_page.html", table=table, **_context(study, measured, missing))


def report_page(study: Study, measurements: Sequence[Measurement]) -> str:
    """The self-contained report of a study: the same text for the same result files."""
    contents = gather(study, measurements)
    measurements = [m for m in measurements if m.measured]
    main = [m for m in measurements if m.group == "main"]
    questions, captions = (
        [name for name in study.benchmarks if (BENCHMARKS[name].group == "caption") == caption]
        for caption in (False, True)
    )
    benches = documents.read(documents.paths(METHODS)).benches
    model, gallery = cards(main, study.benchmarks, _data(study))
    return _render(
        "report.html",
        tables=[table for table in contents.tables if table.measured],
        left_out=[table for table in contents.tables if not table.measured],
        claims=contents.claims,
        standings=_by_default(contents.standings),
        curves=_curves(study, measurements),
        rankings=ranking.by_budget(contents.rankings),
        stability=ranking.stability(contents.rankings),
        method_benches=benches,
        summary=lines(main, study.benchmarks),
        differences=[
            (" / ".join(dict.fromkeys(m.title for m in shown)), svg)
            for i, shown in enumerate(figures.panels(main))
            if (svg := figures.differences(shown, main, study.benchmarks, f"d{i}"))
        ],
        tradeoffs=[
            (f"{title}, {m}", svg)
            for title, names, phase in (
                ("Questions and short answers", questions, "prefill"),
                ("Captions", captions, "decode"),
            )
            for i, m in enumerate(dict.fromkeys(m.reference for m in main))
            if (svg := figures.tradeoff(m, main, names, phase, f"{phase}{i}"))
        ],
        marks=figures.legend(main),
        attention=attention(study),
        gallery=gallery,
        gallery_model=model,
        choices=choices(main),
        findings=contents.findings,
        costs=cost.cost_tables(measurements, [name for name in COSTED if name in study.benchmarks]),
        conventions=CONVENTIONS,
        scopes=SCOPES,
        speed=speed(),
        choosing=choosing(benches),
        **_context(study, measurements, contents.missing),
    )


Grouped = list[tuple[Measurement, list[Standing]]]


def _by_default(standings: Sequence[Standing]) -> dict[str, tuple[Grouped, Grouped]]:
    """Per model the standings of its default DyRate, and those of its other settings, by setting."""
    defaults = {id(s) for group in default_standings(standings).values() for s in group}
    models: dict[str, tuple[dict[Measurement, list[Standing]], dict[Measurement, list[Standing]]]] = {}
    for standing in standings:
        first, others = models.setdefault(standing.mine.model, ({}, {}))
        (first if id(standing) in defaults else others).setdefault(standing.mine, []).append(standing)
    return {name: (list(first.items()), list(others.items())) for name, (first, others) in models.items()}


def _curves(study: Study, measurements: Sequence[Measurement]) -> dict[str, Any]:
    """The pictures of quality against retained tokens per model, the mean first, and the curves' colours."""
    models = list(dict.fromkeys(m.model for m in measurements))
    by_model = {
        model: {name: pareto.curves(model, measurements, name) for name in (None, *study.benchmarks)}
        for model in models
    }
    # Without DyRate there is nothing to compare, and without a second setting there is no curve.
    drawn = {model: panels for model, panels in by_model.items() if any(map(pareto.dyrates, panels[None]))}
    labels = dict.fromkeys(
        label for panels in drawn.values() for curves in panels.values() for label in curves
    )
    colours = figures.colours(labels)
    return {
        "colours": colours,
        "means": [
            (
                model,
                len(pareto.averaged(model, measurements)),
                _panel(panels[None], colours, None, f"p{i}"),
            )
            for i, (model, panels) in enumerate(drawn.items())
        ],
        "panels": {
            model: [
                _panel(curves, colours, name, f"p{i}-{name}")
                for name, curves in panels.items()
                if name and curves
            ]
            for i, (model, panels) in enumerate(drawn.items())
        },
    }


def _panel(curves: dict[str, pareto.Curve], colours: dict[str, int], name: str | None, key: str) -> Markup:
    title = f"{heading(name)}, {BENCHMARKS[name].primary.name}" if name else "mean score, % of unpruned"
    return figures.pareto(curves, colours, title, key, large=name is None)


def _context(study: Study, measurements: Sequence[Measurement], missing: Sequence[Missing]) -> dict[str, Any]:
    return {
        "study": study,
        "missing": missing,
        "made_from": len(measurements),
        "source": source(study, measurements),
        "facts": facts(study, measurements),
        "models": list(dict.fromkeys(m.model for m in measurements)),
        "references": list(dict.fromkeys(m.reference for m in measurements)),
        "heading": heading,
        "many_decodings": len({m.decoding for m in measurements if m.group == "main"}) > 1,
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
    environment.filters["capfirst"] = lambda text: text[:1].upper() + text[1:]
    return environment


def _render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(**context)
