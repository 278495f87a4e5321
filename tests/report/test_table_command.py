"""`dyrate table`: what is asked for is printed, and what is not there is said."""

import csv
from pathlib import Path

import pytest

from dyrate.analysis.tables import table1
from dyrate.cli import main
from dyrate.files import write_text


@pytest.fixture
def asked(small, capsys):
    """The exit status and what was printed."""
    study, _ = small
    write_text(Path("results/smoke/study.json"), study.to_json())

    def run(*arguments, study="smoke"):
        status = main(["table", "--study", study, *arguments])
        return status, *capsys.readouterr()

    return run


def test_columns_and_methods_are_those_asked_for(asked, small):
    status, out, _ = asked("--columns", "gqa", "nocaps", "prefill", "--methods", "fastv", "--format", "csv")

    (line,) = csv.DictReader(out.splitlines())
    row = next(r for r in table1(*small).rows if r.measurement and r.measurement.method == "fastv")
    assert status == 0
    assert (line["model"], line["method"]) == ("testbed-s", "FastV (K=2, R=0.5)")
    assert float(line["gqa"]) == row.cells[0].measured.value
    assert float(line["gqa_difference_low"]) == row.cells[0].measured.difference_low
    assert float(line["prefill"]) == 0.625
    assert "pope" not in line


@pytest.mark.parametrize("study", ["smoke", "results/smoke/study.json"])
def test_a_study_is_named_or_its_file_given(asked, study):
    assert asked(study=study)[0] == 0


@pytest.mark.parametrize(
    ("kind", "sign"), [("text", "---"), ("markdown", "| --- |"), ("latex", r"\toprule"), ("html", "<table>")]
)
def test_every_format_has_the_same_figures(asked, kind, sign):
    status, out, _ = asked("--columns", "gqa", "origin", "--format", kind)

    assert status == 0
    assert sign in out
    assert out.count("control") == 1
    assert "Unpruned" in out


def test_printed_figures_are_added_when_asked_for(asked):
    assert "published" not in asked("--columns", "gqa", "--methods", "fastv")[1]
    out = asked("--columns", "gqa", "--methods", "fastv", "--published")[1]
    assert "LLaVA-1.5-7B, published" in out
    assert "60.3" in out


def test_printed_figures_are_as_printed_and_once(asked):
    lines = asked("--columns", "nocaps", "--methods", "dyrate", "fastv", "--published")[1].splitlines()

    assert [line.split() for line in lines].count(["DyRate", "75.00"]) == 1
    assert [line.split() for line in lines].count(["FastV(K=2,R=0.5)", "74.86"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--columns", "gqaa"), "--columns gqaa: the study has no such entry; did you mean 'gqa'? it has "),
        (("--columns", "gqa:nothing"), "or benchmark:metric such as "),
        (("--methods", "fastvv"), "--methods fastvv: the study has no such entry; did you mean 'fastv'?"),
        (("--models", "x"), "--models x: the study has no such entry; it has testbed-s"),
    ],
)
def test_what_is_not_there_is_one_error_with_what_is(asked, arguments, said):
    status, out, err = asked(*arguments)

    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_study_that_is_not_there(asked):
    status, _, err = asked(study="nowhere")

    assert status == 2
    assert "--study nowhere: there is neither such a file nor results/nowhere/study.json" in err
