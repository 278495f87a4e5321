"""Everything that a study's results say, computed once for the CSV files and for the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dyrate.analysis.ablations import decoding_table, predictor_table, strategy_table
from dyrate.analysis.carried import Carried, carried
from dyrate.analysis.cells import Table
from dyrate.analysis.claims import Claim, claims
from dyrate.analysis.equal_budget import Standing, standings
from dyrate.analysis.frame import frame
from dyrate.analysis.headlines import headlines, not_run
from dyrate.analysis.measurement import Measurement
from dyrate.analysis.missing import Missing, missing
from dyrate.analysis.paired import Answers
from dyrate.analysis.ranking import Ranking, rankings
from dyrate.analysis.tables import table1, table2, table3
from dyrate.paper.audit.checks import audit
from dyrate.paper.audit.finding import Finding
from dyrate.study import Study


@dataclass(frozen=True)
class Contents:
    """A study's frame, its tables and comparisons at equal budget, what becomes of the paper's claims, and
    what the paper's own tables say of each other; and what the study asks for and does not have.
    """

    frame: pd.DataFrame
    tables: tuple[Table, ...]
    standings: tuple[Standing, ...]
    rankings: tuple[Ranking, ...]
    carried: tuple[Carried, ...]
    claims: tuple[Claim, ...]
    findings: tuple[Finding, ...]
    missing: tuple[Missing, ...]
    headlines: tuple[str, ...]
    not_run: tuple[str, ...]


def gather(study: Study, measurements: Sequence[Measurement]) -> Contents:
    """Fill in all tables, and compare what can be compared; differences that results lack are put into them.

    Tables have a row for each job; all else is of what was measured.
    """
    answers = Answers(study.config["seed"])
    answers.compare(measurements)
    measured = [m for m in measurements if m.measured]
    compared = standings(measured, answers)
    tables = (
        table1(study, measurements),
        table2(study, measurements),
        table3(study, measurements),
        strategy_table(study, measurements),
        decoding_table(study, measurements),
        predictor_table(study, measurements, answers),
    )
    ranked = rankings(measured, study.typed.rank_at, answers)
    claimed = claims(measured, compared, answers)
    absent = missing(study, measurements)
    return Contents(
        frame=frame(study, measurements),
        tables=tables,
        standings=compared,
        rankings=ranked,
        carried=carried(ranked, compared),
        claims=claimed,
        findings=audit(),
        missing=absent,
        headlines=headlines(study, measured, compared, ranked, claimed, answers),
        not_run=not_run(study, measured, tables, absent),
    )
