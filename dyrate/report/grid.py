"""A table as text: one grid of cells, written as text, CSV, Markdown, LaTeX (booktabs) or HTML.

Text from models, configs and other producers is escaped for each of them.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import category

from markupsafe import Markup, escape

Cells = Sequence[str]
_FORMULA = re.compile(r"(?![+-]?[0-9.]+$)\s*[=+\-@]|[\t\r\n]")  # a printed number keeps its sign
_LONG = 40  # characters of a cell that is set in lines, and rows of a table that is set on several pages
SIGNS = {"worse": "▼", "better": "▲"}
"""Of a paired difference whose interval excludes zero."""
_LATEX = {
    **{sign: f"\\{sign}" for sign in "{}$&#%_"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "–": "--", "−": "$-$", "▼": r"$\downarrow$", "▲": r"$\uparrow$", "✗": r"$\times$", "²": "$^2$",
}  # fmt: skip
_MARKDOWN = {
    **{sign: f"\\{sign}" for sign in "\\`*_{}[]#|~$"}, "<": "&lt;", ">": "&gt;", "&": "&amp;",
}  # fmt: skip


class Bold(str):
    """The best of its column, or what is bold in print."""

    __slots__ = ()


@dataclass(frozen=True)
class Grid:
    """Headings, and below them groups of rows; the first column names a row, others are figures."""

    title: str
    headings: Cells
    groups: Sequence[tuple[str, Sequence[Cells]]]
    notes: Sequence[str] = ()

    @property
    def rows(self) -> list[Cells]:
        """All rows in order."""
        return [row for _, rows in self.groups for row in rows]


def text(grid: Grid) -> str:
    """For a terminal: columns aligned, groups under their names."""
    plain = [[_line(cell) for cell in row] for row in (grid.headings, *grid.rows)]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]

    def aligned(row: Cells) -> str:
        name, *figures = (_line(cell) for cell in row)
        return "  ".join(
            [name.ljust(widths[0]), *(f.rjust(w) for f, w in zip(figures, widths[1:], strict=True))]
        ).rstrip()

    lines = [aligned(grid.headings), "  ".join("-" * width for width in widths)]
    for title, rows in grid.groups:
        lines += [_line(title)] * bool(title) + [aligned(row) for row in rows]
    return "\n".join([*lines, *map(_line, grid.notes)]) + "\n"


def markdown(grid: Grid) -> str:
    """As GitHub reads it; a group is a line of its own."""

    def cell(value: str) -> str:
        escaped = _escaped(value, _MARKDOWN)
        return f"**{escaped}**" if isinstance(value, Bold) and escaped else escaped

    def line(row: Cells) -> str:
        return f"| {' | '.join(map(cell, row))} |"

    width = len(grid.headings)
    lines = [line(grid.headings), f"| --- |{' ---: |' * (width - 1)}"]
    for title, rows in grid.groups:
        lines += [line((Bold(title), *[""] * (width - 1)))] * bool(title) + [line(row) for row in rows]
    notes = [f"\n{cell(note)}" for note in grid.notes]
    return "\n".join([f"### {_escaped(grid.title, _MARKDOWN)}\n", *lines, *notes]) + "\n"


def latex(grid: Grid) -> str:
    """A tabular with rules of booktabs, over several pages (longtable) where it is long."""

    def cell(value: str) -> str:
        escaped = _escaped(value, _LATEX)
        return rf"\textbf{{{escaped}}}" if isinstance(value, Bold) and escaped else escaped

    def line(row: Cells) -> str:
        joined = " & ".join(map(cell, row))
        return f"{'{}' * joined.startswith(('[', '*'))}{joined} \\\\"  # or \\ would take it as its own

    rows, width = grid.rows, len(grid.headings)
    columns = list(zip(*rows, strict=True)) or [()] * width
    kinds = ["p{4cm}" if any(len(c) > _LONG for c in column) else "r" for column in columns]
    kinds[0] = "l" if kinds[0] == "r" else kinds[0]
    environment = "longtable" if len(rows) > _LONG else "tabular"
    body: list[str] = []
    for i, (title, members) in enumerate(grid.groups):
        body += [r"\midrule"] * bool(i)
        body += [rf"\multicolumn{{{width}}}{{l}}{{{cell(Bold(title))}}} \\"] * bool(title)
        body += map(line, members)
    notes = [f"% {_escaped(note, _LATEX)}" for note in (grid.title, *grid.notes)]
    return "\n".join(
        [
            r"% \usepackage{booktabs,longtable}", *notes, rf"\begin{{{environment}}}{{{''.join(kinds)}}}",
            r"\toprule", line(grid.headings), r"\midrule", *body, r"\bottomrule", rf"\end{{{environment}}}",
        ]
    ) + "\n"  # fmt: skip


def html(grid: Grid) -> str:
    """A <table> and nothing around it."""

    def cell(value: str, tag: str = "td") -> Markup:
        inner = Markup("<b>{}</b>").format(value) if isinstance(value, Bold) else escape(value)
        return Markup(f"<{tag}>{{}}</{tag}>").format(inner)

    def line(row: Cells, tag: str = "td") -> Markup:
        return Markup("<tr>{}{}</tr>").format(
            cell(row[0], "th"), Markup("").join(cell(value, tag) for value in row[1:])
        )

    lines = [Markup("<table>\n<caption>{}</caption>").format(grid.title)]
    lines.append(Markup("<thead>{}</thead>").format(line(grid.headings, "th")))
    for title, rows in grid.groups:
        lines.append(Markup("<tbody>"))
        head = Markup('<tr><th colspan="{}" scope="rowgroup">{}</th></tr>').format(len(grid.headings), title)
        lines += [head] * bool(title) + [line(row) for row in rows] + [Markup("</tbody>")]
    return str(Markup("\n").join([*lines, Markup("</table>")])) + "\n"


def csv_text(fields: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    """Those fields of lines as CSV, with no text that a spreadsheet would take for a formula."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({field: _plain(line.get(field)) for field in fields} for line in lines)
    return stream.getvalue()


FORMATS: Mapping[str, Callable[[Grid], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "html": html,
}


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


def score(
    value: float,
    low: float | None,
    high: float | None,
    unit: str = "",
    difference: float | None = None,
    verdict: str | None = None,
) -> str:
    """A score with its interval and its difference, if it has them: "71.0 (66.0–75.0) ▼−3.1"."""
    interval = "" if low is None or high is None else f" ({number(low, unit)}–{number(high, unit)})"
    lost = "" if difference is None else f" {SIGNS.get(verdict or '', '')}{signed(difference, unit)}"
    return f"{number(value, unit)}{interval}{lost}"


def _line(value: str) -> str:
    """One line without control characters, which would move a terminal's cursor or end a comment."""
    return " ".join("".join(" " if category(c) in ("Cc", "Zl", "Zp") else c for c in value).split())


def _escaped(value: str, signs: Mapping[str, str]) -> str:
    return "".join(signs.get(sign, sign) for sign in _line(value))


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
