"""`dyrate tables`, `report`, `table` and `compare`: result files in, tables and pages out."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.report.site import FIGURES, INDEX, PAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dyrate.analysis.missing import Missing

_INCOMPLETE = (
    " What is missing, because its job failed or has not run, is marked in its place and listed; the exit "
    "status is then 1."
)
_FAILED_HELP = "jobs of the study have failed: what it would have made anew counts as missing"
_TABLE = """\
Prints a table of a study: a row per method and decoding, a group per model, and the columns that you name.

A column is a benchmark (gqa: its main metric), one of its other metrics (nocaps:ROUGE_L), or one of
  prefill, decode   visual tokens that a layer sees, as a share of V: means over the benchmarks shown
  flops             in percent of the unpruned model (convention flops, scope cached)
  latency, kv_bytes milliseconds per token and bytes of the KV cache, where the study times them
  origin            paper (as its paper or code has it), ours, control, or published
A method is one of `dyrate methods` (all its settings), or one setting as the tables label it. Scores come
with 95% interval and paired difference to the unpruned model; csv has each of these in a field of its own.
All that is known of a study is in results/STUDY/tables/measurements.csv.
"""
_TABLE_EXAMPLES = """\
examples:
  dyrate table --study testbed
  dyrate table --study testbed --columns gqa pope nocaps flops --methods none fastv dyrate --format latex
  dyrate table --study results/testbed/study.json --columns nocaps nocaps:ROUGE_L --models testbed-s
  dyrate table --study testbed --methods fastv dyrate --columns nocaps --published
  dyrate table --study testbed --methods 'FastV (K=2, R=0.5)' --format csv > fastv.csv
"""
_COMPARE = """\
Compares two studies, or the results of two commits: which cells moved beyond their paired interval.

A cell is a benchmark of a result, and results belong together where model, method and decoding are the same.
Two are compared where they answered the same samples to the same prompts: differences are B minus A, over the
same resampled samples. What cannot be compared is listed with the reason: other samples, another number of
them, other data, or only there on one side.
"""
_COMPARE_EXAMPLES = """\
examples:
  dyrate compare results/testbed /elsewhere/results/testbed
  dyrate compare before/results/testbed/study.json results/testbed/study.json --output moved.html
"""
_STUDY_HELP = "the study: its YAML config, or the checked copy at results/<study>/study.json"


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the commands to `dyrate`."""
    tables = subparsers.add_parser(
        "tables",
        help="the tables of a study, as CSV, Markdown, LaTeX and HTML",
        description="Reads the result files of a study and writes Tables I to III (table1, table2, table3) "
        "and the ablations (ablation_strategy, ablation_decoding, ablation_predictor): measured figures with "
        "intervals beside the printed ones. And equal_budget: DyRate against each competitor at the same "
        "budget of visual tokens, per benchmark. ranking: all methods at the budgets that the study names in "
        "rank_at. carried: which of these verdicts hold on another model. cost: the FLOPs of every row, by "
        "convention and scope. audit: the printed tables checked against themselves and arithmetic. missing: "
        "what the study asks for and does not have. Each as .csv, .md and .tex, the first six as .html as "
        "well. And measurements.csv: all that was measured or printed, a line per model, method, decoding, "
        "benchmark and metric." + _INCOMPLETE,
        epilog="example:\n  dyrate tables --study config/testbed.yaml --output results/testbed/tables",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tables.add_argument("--study", required=True, type=Path, metavar="FILE", help=_STUDY_HELP)
    tables.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the files")
    tables.add_argument("--failed", action="store_true", help=_FAILED_HELP)
    tables.set_defaults(run=_tables)

    report = subparsers.add_parser(
        "report",
        help="the report pages of a study",
        description="Reads a study's result files and writes self-contained HTML pages that open from disk: "
        "the front page at --output, and beside it "
        + ", ".join(file for file in PAGES if file != INDEX)
        + f"; in {FIGURES}/ every figure as SVG, PDF and CSV."
        + _INCOMPLETE,
        epilog="example:\n  dyrate report --study config/testbed.yaml --output reports/testbed/index.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("--study", required=True, type=Path, metavar="FILE", help=_STUDY_HELP)
    report.add_argument("--failed", action="store_true", help=_FAILED_HELP)
    report.add_argument("--output", required=True, type=Path, metavar="FILE", help="the front page")
    report.add_argument(
        "--survival", type=Path, metavar="FILE", help="the page of token survival, which is linked"
    )
    report.set_defaults(run=_report)

    raw = argparse.RawDescriptionHelpFormatter
    table = subparsers.add_parser(
        "table",
        help="print a table of a study, with rows and columns of your choice",
        description=_TABLE,
        epilog=_TABLE_EXAMPLES,
        formatter_class=raw,
    )
    named = f"{_STUDY_HELP}; or its name, for that copy"
    table.add_argument("--study", required=True, metavar="FILE", help=named)
    for option, what in (
        ("columns", "benchmarks, metrics or facts"),
        ("methods", "names or labels of methods"),
        ("models", "models of the study"),
    ):
        help_ = f"{what} (all that the study has)"
        table.add_argument(f"--{option}", nargs="+", default=[], metavar=option[:-1].upper(), help=help_)
    table.add_argument("--published", action="store_true", help="add the figures that the paper prints")
    formats = ("text", "csv", "markdown", "latex", "html")
    table.add_argument("--format", choices=formats, default="text", help="what is printed (%(default)s)")
    table.set_defaults(run=_table)

    compare = subparsers.add_parser(
        "compare",
        help="what moved between two studies, or between the results of two commits",
        description=_COMPARE,
        epilog=_COMPARE_EXAMPLES,
        formatter_class=raw,
    )
    for name, which in (("first", "before"), ("second", "after")):
        help_ = f"results {which}: a folder such as results/testbed, or the study.json in it"
        compare.add_argument(name, type=Path, metavar="AB"[name == "second"], help=help_)
    compare.add_argument("--output", type=Path, metavar="FILE", help="a page of the same, such as moved.html")
    compare.set_defaults(run=_compare)


def _tables(arguments: argparse.Namespace) -> int:
    from dyrate.analysis.contents import gather
    from dyrate.analysis.measurements import load
    from dyrate.analysis.missing import unseen
    from dyrate.report import csv_files
    from dyrate.report.page import table_page
    from dyrate.report.provenance import origin_note
    from dyrate.study import Study

    study = Study.read(arguments.study)
    measurements = load(study, arguments.failed)
    contents = gather(study, measurements)
    missing = (*contents.missing, *unseen(study))  # the pages do not wait for token survival
    files.make_folder(arguments.output)
    where_from = origin_note(study, measurements)
    csv_files.write(csv_files.of_frame(contents.frame), arguments.output / "measurements.csv")
    for key, sheet in csv_files.sheets(replace(contents, missing=missing)).items():
        csv_files.write_all(sheet, arguments.output / f"{key}.csv", where_from)
    for table in contents.tables:
        page = arguments.output / f"{table.key}.html"
        files.write_text(page, table_page(table, study, measurements, missing))
        print(f"wrote {page.with_suffix('.csv')} and {page}")
    return _complete(missing)


def _report(arguments: argparse.Namespace) -> int:
    from dyrate.analysis.measurements import load
    from dyrate.analysis.missing import missing
    from dyrate.report import drawing
    from dyrate.report.page import report_pages
    from dyrate.study import Study

    study = Study.read(arguments.study)
    if arguments.output.is_dir():
        raise DyrateError(f"--output {arguments.output} is a folder; name the page, such as index.html")
    if arguments.output.name in PAGES and arguments.output.name != INDEX:
        raise DyrateError(f"--output {arguments.output} is a page beside the front page; name another")
    measurements = load(study, arguments.failed)
    folder = arguments.output.parent
    files.make_folder(folder)
    survival = arguments.survival and Path(os.path.relpath(arguments.survival, folder)).as_posix()
    with drawing.album() as pictures:
        pages = report_pages(study, measurements, survival, arguments.output.name)
    drawing.write(pictures, folder / FIGURES)
    for name, text in pages.items():
        files.write_text(folder / name, text)
    beside = f"{len(pages) - 1} pages and {len(pictures)} figures beside it"
    print(f"wrote {arguments.output} and {beside}")
    return _complete(missing(study, measurements))


def _table(arguments: argparse.Namespace) -> int:
    from dyrate.analysis.frame import frame
    from dyrate.analysis.measurements import load
    from dyrate.analysis.paired import Answers
    from dyrate.report.grid import FORMATS, csv_text
    from dyrate.report.view import view
    from dyrate.study import Study

    path, copy = Path(arguments.study), Path("results", arguments.study, "study.json")
    if not path.is_file() and not copy.is_file():
        raise DyrateError(f"--study {arguments.study}: there is neither such a file nor {copy}")
    study = Study.read(path if path.is_file() else copy)
    measurements = load(study)
    Answers(study.config["seed"]).compare(measurements)
    chosen = view(
        frame(study, measurements),
        study.name,
        arguments.columns,
        arguments.methods,
        arguments.models,
        arguments.published,
    )
    written = FORMATS.get(arguments.format)
    print(written(chosen.grid) if written else csv_text(chosen.fields, chosen.lines), end="")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from dyrate.analysis.two_studies import compare
    from dyrate.report.comparison import comparison_page, summary

    if arguments.output and arguments.output.is_dir():
        raise DyrateError(f"--output {arguments.output} is a folder; name the page, such as moved.html")
    found = compare(arguments.first, arguments.second)
    print(summary(found), end="")
    if arguments.output:
        files.write_text(arguments.output, comparison_page(found))
        print(f"wrote {arguments.output}")
    return 0


def _complete(missing: "Sequence[Missing]") -> int:
    """The exit status, having said what is missing."""
    for one in missing:
        print(f"dyrate: missing: {one.what}: {one.why}", file=sys.stderr)
    return 1 if missing else 0
