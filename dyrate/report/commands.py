"""`dyrate tables` and `dyrate report`: result files in, CSV and HTML out."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate import files
from dyrate.errors import DyrateError
from dyrate.report.site import INDEX, PAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dyrate.analysis.missing import Missing

_INCOMPLETE = (
    " What is missing, because its job failed or has not run, is marked in its place and listed; the exit "
    "status is then 1."
)
_FAILED_HELP = "jobs of the study have failed: what it would have made anew counts as missing"
_STUDY_HELP = "the study: its YAML config, or the checked copy at results/<study>/study.json"


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the two commands to `dyrate`."""
    tables = subparsers.add_parser(
        "tables",
        help="the tables of a study, as CSV and HTML",
        description="Reads the result files of a study and writes Tables I to III (table1, table2, table3) "
        "and the ablations (ablation_strategy, ablation_decoding, ablation_predictor), as .csv and .html: "
        "measured figures with intervals beside the printed ones. And equal_budget.csv: DyRate against each "
        "competitor at the same budget of visual tokens, per benchmark. ranking.csv: all methods at the "
        "budgets that the study names in rank_at. cost.csv: the FLOPs of every row, by "
        "convention and scope. audit.csv: the printed tables checked against themselves and arithmetic. "
        "missing.csv: what the study asks for and does not have." + _INCOMPLETE,
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
        + "."
        + _INCOMPLETE,
        epilog="example:\n  dyrate report --study config/testbed.yaml --output reports/testbed/index.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("--study", required=True, type=Path, metavar="FILE", help=_STUDY_HELP)
    report.add_argument("--failed", action="store_true", help=_FAILED_HELP)
    report.add_argument("--output", required=True, type=Path, metavar="FILE", help="the front page")
    report.add_argument(
        "--survival", type=Path, metavar="FILE", help="the page of token survival, if made: it is linked"
    )
    report.set_defaults(run=_report)


def _tables(arguments: argparse.Namespace) -> int:
    from dyrate.analysis.contents import gather
    from dyrate.analysis.measurements import load
    from dyrate.report import csv_files
    from dyrate.report.page import table_page
    from dyrate.study import Study

    study = Study.read(arguments.study)
    measurements = load(study, arguments.failed)
    contents = gather(study, measurements)
    files.make_folder(arguments.output)
    csv_files.write_missing(contents.missing, arguments.output / "missing.csv")
    csv_files.write_costs([m for m in measurements if m.measured], arguments.output / "cost.csv")
    csv_files.write_findings(contents.findings, arguments.output / "audit.csv")
    csv_files.write_standings(contents.standings, arguments.output / "equal_budget.csv")
    csv_files.write_rankings(contents.rankings, arguments.output / "ranking.csv")
    for table in contents.tables:
        csv_files.write(table, arguments.output / f"{table.key}.csv")
        page = arguments.output / f"{table.key}.html"
        files.write_text(page, table_page(table, study, measurements, contents.missing))
        print(f"wrote {page.with_suffix('.csv')} and {page}")
    return _complete(contents.missing)


def _report(arguments: argparse.Namespace) -> int:
    from dyrate.analysis.measurements import load
    from dyrate.analysis.missing import missing
    from dyrate.report.page import report_pages
    from dyrate.study import Study

    study = Study.read(arguments.study)
    if arguments.output.is_dir():
        raise DyrateError(f"--output {arguments.output} is a folder; name the page, such as index.html")
    if arguments.output.name in PAGES and arguments.output.name != INDEX:
        raise DyrateError(f"--output {arguments.output} is a page beside the front page; name another")
    if arguments.survival is not None and not arguments.survival.is_file():
        raise DyrateError(f"--survival {arguments.survival}: there is no such file")
    measurements = load(study, arguments.failed)
    folder = arguments.output.parent
    files.make_folder(folder)
    survival = arguments.survival and Path(os.path.relpath(arguments.survival, folder)).as_posix()
    pages = report_pages(study, measurements, survival, arguments.output.name)
    for name, text in pages.items():
        files.write_text(folder / name, text)
    print(f"wrote {arguments.output} and {len(pages) - 1} pages beside it")
    return _complete(missing(study, measurements))


def _complete(missing: "Sequence[Missing]") -> int:
    """The exit status, having said what is missing."""
    for one in missing:
        print(f"dyrate: missing: {one.what}: {one.why}", file=sys.stderr)
    return 1 if missing else 0
