"""The report's pages and the tables' twins: what each shows, gathered once from the results of a study."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from dyrate.analysis import pareto
from dyrate.analysis.cells import Table
from dyrate.analysis.contents import Contents, gather
from dyrate.analysis.frame import counted
from dyrate.analysis.measurement import NONE, Measurement, grouped
from dyrate.analysis.measurements import source
from dyrate.analysis.missing import Missing
from dyrate.analysis.predictor_settings import choices
from dyrate.analysis.ranking import GROUPS as RANKED_GROUPS
from dyrate.analysis.summary import lines
from dyrate.analysis.tables import heading, of_paper
from dyrate.cost.flops import CONVENTIONS, SCOPES
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.report import breakdowns, figures, provenance, ranking, steps
from dyrate.report.attention import AttentionSection, attention
from dyrate.report.browser import Browser, browser
from dyrate.report.drawing import Picture, named
from dyrate.report.equal_budget import by_default, looks_of, pictures
from dyrate.report.gallery import Card, cards
from dyrate.report.html import TEMPLATES, render
from dyrate.report.learned import Learned, learned
from dyrate.report.looks import Look, family, looks
from dyrate.report.site import INDEX, PAGES
from dyrate.report.speed.choosing import choosing
from dyrate.report.speed.section import speed, timed
from dyrate.self_contained import script, style
from dyrate.speed import documents
from dyrate.speed.documents import METHODS, BenchDocument
from dyrate.study import Study

COSTED = ("nocaps", "gqa")  # long answers and short ones: what their FLOPs are spent on differs
TABLES = ("vendor/sortable.js", "tables.js")  # the scripts of every page


def table_page(
    table: Table, study: Study, measurements: Sequence[Measurement], missing: Sequence[Missing] = ()
) -> str:
    """A self-contained page with one table: the HTML twin of its CSV."""
    measured = [m for m in measurements if m.measured]
    return render("table_page.html", table=table, **_context(study, measured, missing))


def report_pages(
    study: Study, measurements: Sequence[Measurement], survival: str | None = None, front: str = INDEX
) -> dict[str, str]:
    """The self-contained pages of a study's report by file: the same texts for the same result files.

    `survival` is where, from these pages, the page of token survival lies, if there is one; `front` is the
    name of the first page.
    """
    contents = gather(study, measurements)
    report = _Report(study, [m for m in measurements if m.measured], contents)
    shared = _context(study, report.measured, contents.missing) | {
        "contents": contents,
        "report": report,
        "survival": survival,
        "pages": {file: title for file, title in PAGES.items() if file != INDEX and report.has(file)},
        "front": front,
    }
    views: Mapping[str, Callable[[], dict[str, Any]]] = {
        "index.html": lambda: {"overviews": report.overviews},
        "results.html": lambda: report.results,
        "attention.html": lambda: {
            "attention": report.attention,
            "learned": report.learned,
            "rates": report.rates,
            "maps": report.maps,
        },
        "budget.html": lambda: report.budget,
        "cost.html": lambda: report.cost,
        "audit.html": lambda: {"findings": contents.findings, "choices": choices(report.main)},
        "samples.html": lambda: report.samples,
        "provenance.html": lambda: provenance_of(study, measurements, report.measured),
    }
    scripts = {"samples.html": (*TABLES, "samples.js")}
    return {
        front if file == INDEX else file: render(
            file, file=file, scripts=[script(TEMPLATES, *scripts.get(file, TABLES))], **shared, **view()
        )
        for file, view in views.items()
    }


def provenance_of(
    study: Study, measurements: Sequence[Measurement], measured: Sequence[Measurement]
) -> dict[str, Any]:
    """What the page of provenance shows; of failures, also what there is no measurement of."""
    return {
        "failures": provenance.failures(study, measurements),
        "timings": provenance.timings(study),
        "steps": provenance.steps(study),
        "hashes": provenance.hashes(measured),
        "hosts": provenance.hosts(measured),
        "rows": measured,
        "dirty": any(provenance.DIRTY in (m.result["meta"].get("commit") or "") for m in measured),
    }


@dataclass(frozen=True)
class _Report:
    """What several pages need of a study's measurements."""

    study: Study
    measured: list[Measurement]
    contents: Contents

    @cached_property
    def main(self) -> list[Measurement]:
        return [m for m in self.measured if m.group == "main"]

    @property
    def titles(self) -> list[str]:
        """The methods by name, settings left out."""
        reduced = (m for m in self.measured if m.kind != NONE and not m.system)
        return list(dict.fromkeys(m.title.partition(" (")[0] for m in reduced))

    @property
    def silence(self) -> str:
        """Why nothing is said of the methods, where nothing is."""
        reduced = [m for m in self.measured if m.kind != NONE and not m.system]
        if not reduced:
            return "No reduction method was measured."
        if any(m.pair(name) for m in reduced for name in self.study.benchmarks):
            return "What was measured is in the tables alone: none of the usual findings can be told of it."
        return "No method can be compared with the unpruned model, which is missing or ran in another dtype."

    @cached_property
    def looks(self) -> dict[str, Look]:
        return looks(self.measured, timed([*documents.read().benches, *self.benches]))

    @cached_property
    def attention(self) -> AttentionSection | None:
        return attention(self.study)

    @cached_property
    def learned(self) -> tuple[Learned, ...]:
        return learned(self.measured, self.looks)

    @property
    def longest(self) -> str:
        """The benchmark whose answers have most steps: the first of captions."""
        names = self.study.benchmarks
        return next((name for name in names if BENCHMARKS[name].group == "caption"), names[0])

    @cached_property
    def rates(self) -> tuple[Learned, ...]:
        models = dict.fromkeys(m.model for m in self.main)
        found = (steps.rates(model, self.main, self.longest, self.looks) for model in models)
        return tuple(one for one in found if one)

    @cached_property
    def maps(self) -> dict[str, list[tuple[str, Picture]]]:
        models = dict.fromkeys(m.model for m in self.main)
        found = {model: list(steps.maps(model, self.main, self.longest, self.looks)) for model in models}
        return {model: pictures for model, pictures in found.items() if pictures}

    @cached_property
    def browser(self) -> Browser | None:
        return browser(self.measured, self.study.benchmarks, _data(self.study))

    @cached_property
    def gallery(self) -> tuple[str, tuple[Card, ...]]:
        return cards(self.main, self.study.benchmarks, _data(self.study))

    def has(self, file: str) -> bool:
        """Whether there is anything on a page; it is written in any case, and left out of the index."""
        return {
            "attention.html": lambda: bool(self.attention or self.learned or self.rates or self.maps),
            "budget.html": lambda: bool(self.contents.standings or self.contents.rankings),
            "audit.html": lambda: of_paper(self.study),
            "samples.html": lambda: self.browser is not None,
        }.get(file, lambda: True)()

    def samples_of(self, m: Measurement | None, benchmark: str) -> str | None:
        """The address of a cell's samples."""
        held = self.browser is not None and m is not None and (m.key, benchmark) in self.browser.held
        return f"samples.html#benchmark={benchmark}&row={m.key}" if held and m else None

    @cached_property
    def overviews(self) -> list[tuple[str, int, Picture, dict[str, Look]]]:
        """Per model: how many benchmarks the mean is over, the picture of all methods, and looks."""
        found = []
        for model in dict.fromkeys(m.model for m in self.measured if not m.against):
            curves = pareto.curves(model, self.measured, None, RANKED_GROUPS)
            if any(len(curve) > 0 for curve in curves.values()):
                drawn = looks_of(model, self.measured, self.looks, RANKED_GROUPS)
                title, name = "mean score, % of unpruned", named("overview", model)
                picture = figures.pareto(f"{model}, all methods", curves, drawn, title, name, large=True)
                count = len(pareto.averaged(model, self.measured))
                found.append((model, count, picture, {label: drawn[label] for label in curves}))
        return found

    @property
    def results(self) -> dict[str, Any]:
        main, benchmarks = self.main, self.study.benchmarks
        models = list(dict.fromkeys(m.reference for m in main))
        questions, spelt = (
            [name for name in benchmarks if BENCHMARKS[name].long == long] for long in (False, True)
        )
        captions = all(BENCHMARKS[name].group == "caption" for name in spelt)
        return {
            "tables": [table for table in self.contents.tables if table.measured],
            "left_out": [table for table in self.contents.tables if not table.measured],
            "summary": lines(main, benchmarks),
            "differences": [
                (label, picture)
                for i, shown in enumerate(figures.panels(main))
                for label in [" / ".join(dict.fromkeys(m.title for m in shown))]
                if (
                    picture := figures.differences(
                        label, shown, main, benchmarks, named("differences", i, shown[0].kind)
                    )
                )
            ],
            "tradeoffs": [
                (f"{title}, {model}", picture)
                for title, names, phase in (
                    ("Questions and short answers", questions, "prefill"),
                    ("Captions" if captions else "Captions and answers step by step", spelt, "decode"),
                )
                for model in models
                if (picture := figures.tradeoff(model, main, names, phase, self.looks))
            ],
            "marks": figures.legend(main, self.looks),
            "layers": [
                (f"{phase}, {model}", picture)
                for phase, names in (("Prefill", questions), ("Decode", spelt))
                for model in models
                if (picture := breakdowns.layers(model, main, names, phase.lower(), self.looks))
            ],
            "categories": [
                (model, picture)
                for model in models
                for name in benchmarks
                if (picture := breakdowns.categories(model, main, name, self.looks))
            ],
        }

    @property
    def budget(self) -> dict[str, Any]:
        return {
            "claims": self.contents.claims,
            "standings": by_default(self.contents.standings),
            "curves": pictures(self.study, self.measured, self.looks),
            "rankings": ranking.by_budget(self.contents.rankings),
            "stability": ranking.stability(self.contents.rankings),
            "carried": ranking.carries(self.contents.carried),
            "method_benches": self.benches,
        }

    @property
    def cost(self) -> dict[str, Any]:
        main = [line for line in counted(self.contents.frame) if line["group"] == "main"]
        costed = [name for name in COSTED if name in self.study.benchmarks]
        return {
            "costs": [
                (model, name, rows)
                for name in costed
                for model, rows in grouped(
                    (line for line in main if line["benchmark"] == name), itemgetter("against")
                ).items()
            ],
            "conventions": CONVENTIONS,
            "scopes": SCOPES,
            "speed": speed(families=self.looks),
            "choosing": choosing(self.benches),
            "method_benches": self.benches,
        }

    @property
    def samples(self) -> dict[str, Any]:
        model, gallery = self.gallery
        return {"browser": self.browser, "gallery": gallery, "gallery_model": model}

    @cached_property
    def benches(self) -> tuple[BenchDocument, ...]:
        return documents.read(documents.paths(METHODS)).benches


def _context(study: Study, measurements: Sequence[Measurement], missing: Sequence[Missing]) -> dict[str, Any]:
    return {
        "study": study,
        "missing": missing,
        "made_from": len(measurements),
        "source": source(study, measurements),
        "facts": provenance.facts(study, measurements),
        "models": list(dict.fromkeys(m.model for m in measurements)),
        "references": list(dict.fromkeys(m.reference for m in measurements)),
        "heading": heading,
        "of_paper": of_paper(study),
        "family": family,
        "many_decodings": len({m.decoding for m in measurements if m.group == "main"}) > 1,
        "config": yaml.safe_dump(dict(study.config), sort_keys=False, allow_unicode=True),
        "style": style(TEMPLATES, "style.css"),
    }


def _data(study: Study) -> Path | None:
    return Path(study.config["data"]) if study.tasks == "testbed" else None
