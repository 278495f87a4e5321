"""`dyrate compare`: what moved between two studies, for a terminal and as a page."""

from markupsafe import Markup, escape

from dyrate.analysis.measurement import grouped
from dyrate.analysis.tables import heading
from dyrate.analysis.two_studies import Moved, TwoStudies
from dyrate.analysis.words import say
from dyrate.report.grid import Grid, html, number, signed, text
from dyrate.report.html import TEMPLATES
from dyrate.self_contained import style

HEADINGS = ("Method, decoding", "Benchmark", "n", "Before", "After", "Difference", "95% interval", "")
SIGNS = {"worse": "▼ worse", "better": "▲ better"}


def summary(found: TwoStudies) -> str:
    """The cells that moved, how many did not, and what cannot be compared."""
    parts = [_counted(found)]
    parts += [text(_moved(found))] * bool(found.moved)
    parts += [text(_apart(found))] * bool(found.apart)
    return "\n".join(parts)


def comparison_page(found: TwoStudies) -> str:
    """A self-contained page of the same, with all cells below those that moved."""
    title = f"{found.names[0]} and {found.names[1]}, compared"
    tables = [_moved(found)] * bool(found.moved) + [_apart(found)] * bool(found.apart)
    tables.append(_grid("All cells", found.cells))
    body = Markup("\n").join(
        Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(
            grid.title, Markup(html(grid))
        )
        for grid in tables
    )
    return str(
        Markup(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "style-src 'unsafe-inline'\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n<h1>{}</h1>\n<p>{}</p>\n{}\n</main>\n"
            "</body>\n</html>\n"
        ).format(title, style(TEMPLATES, "style.css"), title, escape(_counted(found)), body)
    )


def _counted(found: TwoStudies) -> str:
    """The finding in a sentence or two; with many cells some move by chance."""
    better = sum(cell.verdict == "better" for cell in found.moved)
    return say("moved", found=found, better=better) + "\n"


def _moved(found: TwoStudies) -> Grid:
    return _grid("Moved beyond the paired interval", found.moved)


def _grid(title: str, cells: tuple[Moved, ...]) -> Grid:
    groups = grouped(cells, lambda cell: cell.after.model)
    return Grid(title, HEADINGS, [(model, list(map(_row, members))) for model, members in groups.items()])


def _row(cell: Moved) -> tuple[str, ...]:
    low, high = cell.difference["low"], cell.difference["high"]
    return (
        f"{cell.after.label}, {cell.after.decoding}",
        heading(cell.benchmark),
        str(cell.units),
        *(number(value, cell.unit) for value in cell.values),
        signed(cell.difference["value"], cell.unit),
        "" if low is None or high is None else " to ".join(signed(x, cell.unit) for x in (low, high)),
        SIGNS.get(cell.verdict or "", ""),
    )


def _apart(found: TwoStudies) -> Grid:
    rows = [(one.what, one.why) for one in found.apart]
    return Grid("Not comparable", ("Not comparable", "why"), [("", rows)])
