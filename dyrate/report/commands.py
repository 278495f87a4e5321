"""`dyrate tables` and `dyrate report`: result files in, tables and pages out."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyrate import files
from dyrate.errors import DyrateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dyrate.analysis.missing import Missing

_INCOMPLETE = (
    " What is missing, because its job failed or has not run, is marked in its place and listed; the exit "
    "status is then 1."
)
_STUDY_HELP = "the study: its YAML config, or the checked copy at results/<study>/study.json"


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the commands to `dyrate`."""
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
    tables.set_defaults(run=_tables)

    report = subparsers.add_parser(
        "report",
        help="the report page of a study",
        description="Reads a study's result files and writes one self-contained HTML page: tables, figures, "
        "sample answers, and the command behind each row." + _INCOMPLETE,
        epilog="example:\n  dyrate report --study config/testbed.yaml --output reports/testbed/index.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("--study", required=True, type=Path, metavar="FILE", help=_STUDY_HELP)
    report.add_argument("--output", required=True, type=Path, metavar="FILE", help="the page to write")
    report.set_defaults(run=_report)


def _tables(arguments: argparse.Namespace) -> int:
    from dyrate.analysis import frame as tidy
    from dyrate.analysis.contents import gather
    from dyrate.analysis.measurements import load
    from dyrate.report import csv_files
    from dyrate.report.page import table_page
    from dyrate.report.provenance import origin_note
    from dyrate.study import Study

    study = Study.read(arguments.study)
    measurements = load(study)
    contents = gather(study, measurements)
    files.make_folder(arguments.output)
    frame = tidy.frame(study, measurements)
    where_from = origin_note(study, measurements)
    csv_files.write(csv_files.of_frame(frame), arguments.output / "measurements.csv")
    for key, sheet in csv_files.sheets(contents, frame).items():
        csv_files.write_all(sheet, arguments.output / f"{key}.csv", where_from)
    for table in contents.tables:
        page = arguments.output / f"{table.key}.html"
        files.write_text(page, table_page(table, study, measurements, contents.missing))
        print(f"wrote {page.with_suffix('.csv')} and {page}")
    return _complete(contents.missing)


def _report(arguments: argparse.Namespace) -> int:
    from dyrate.analysis.measurements import load
    from dyrate.analysis.missing import missing
    from dyrate.report.page import report_page
    from dyrate.study import Study

    study = Study.read(arguments.study)
    if arguments.output.is_dir():
        raise DyrateError(f"--output {arguments.output} is a folder; name the page, such as index.html")
    measurements = load(study)
    files.make_folder(arguments.output.parent)
    files.write_text(arguments.output, report_page(study, measurements))
    print(f"wrote {arguments.output}")
    return _complete(missing(study, measurements))


def _complete(missing: "Sequence[Missing]") -> int:
    """The exit status, having said what is missing."""
    for one in missing:
        print(f"dyrate: missing: {one.what}: {one.why}", file=sys.stderr)
    return 1 if missing else 0
