"""Text of others is text in every format: it ends no cell, no row and no table."""

import csv

import pytest

from dyrate.report.grid import Bold, Grid, csv_text, html, latex, markdown, text

HOSTILE = "a|b \\\\ \\input{/etc/passwd} 5% $x$ & <script>alert(1)</script>\n| c | d_e ^~#{}`*["
GRID = Grid("T|\\", ["Method", "GQA"], [(HOSTILE, [[HOSTILE, Bold("1.0")], ["[x", HOSTILE]])], [HOSTILE])


def unescaped(line, sign):
    """How often a sign stands in a line without a backslash before it that is itself none."""
    bare = line.replace("\\\\", "")
    return bare.count(sign) - bare.count(f"\\{sign}")


def test_markdown_keeps_its_columns():
    rows = [line for line in markdown(GRID).splitlines() if line.startswith("|")]

    assert len(rows) == 5
    assert {unescaped(line, "|") for line in rows} == {3}
    assert "<script" not in markdown(GRID)
    assert "**1.0**" in markdown(GRID)


def test_latex_keeps_its_columns_and_runs_nothing():
    written = latex(GRID)
    body = written.partition("\\toprule")[2]
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]

    assert r"\input" not in written
    assert r"\textbackslash{}input\{/etc/passwd\} 5\% \$x\$ \& \textless{}script" in written
    assert [unescaped(line, "&") for line in rows] == [1, 0, 1, 1]
    assert not [line for line in body.splitlines() if unescaped(line, "%")]
    assert all(line.startswith("%") for line in written.splitlines()[:3])
    assert "{}[x &" in written, "or the row's end would take it as a length"
    assert r"\textbf{1.0}" in written
    assert written.count(r"\begin{tabular}") == written.count(r"\end{tabular}") == 1


def test_html_has_no_element_of_others():
    assert "<script" not in html(GRID)
    assert "&lt;script&gt;" in html(GRID)
    assert "<b>1.0</b>" in html(GRID)


def test_a_terminal_gets_one_line_a_row_and_no_control_characters():
    written = text(Grid("T", ["a", "b"], [("", [["x\x1b[2Jy\r\nz\u2028w", "1"]])]))

    assert len(written.splitlines()) == 3
    assert written.isprintable() is False  # its own line ends
    assert "\x1b" not in written
    assert "\u2028" not in written


def test_a_long_table_goes_over_several_pages():
    grid = Grid("T", ["a", "b"], [("", [[str(i), "x" * 80] for i in range(60)])])

    assert r"\begin{longtable}{lp{4cm}}" in latex(grid)


@pytest.mark.parametrize("hostile", ["=1+1", "+cmd|x", "@SUM(A1)", "\t=1"])
def test_csv_has_no_formula(hostile):
    written = csv_text(["a"], [{"a": hostile}])

    assert next(csv.DictReader(written.splitlines(keepends=True)))["a"] == f"'{hostile}"
