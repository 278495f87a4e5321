"""Jobs that fail under Snakemake: each costs its own cells, and tables and page are made all the same."""

import csv

import pytest

from dyrate.study import Study
from tests.pipeline.conftest import REPOSITORY
from tests.pipeline.test_workflow import SMOKE, rules_to_run

PAPER = ("--configfile", "config/paper.yaml")


def fail(project, rule, start, condition, log):
    """While there is a file `broken`, jobs of a rule first do what `log` does, where the condition holds."""
    (project.folder / "broken").touch()
    project.edit(
        f"workflow/rules/{rule}.smk",
        f'"{start}',
        f'"if [[ -e broken && {condition} ]]; then {log}; fi; {start}',
    )


def rows(project, table="table1"):
    path = project.folder / f"results/smoke/tables/{table}.csv"
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.slow
def test_a_failed_evaluation_costs_its_own_row(finished):
    says = "echo dyrate: error: no memory > {log[0]:q}; exit 2"
    fail(finished, "evaluate", "for made", "{output.results[0]} == *fastv*", says)

    output = finished.snakemake(*SMOKE, status=1)

    # fastv and random share a process, which made neither.
    missing = {row["method"] for row in rows(finished) if row["missing"]}
    assert missing == {"fastv (layer=2, rate=0.5)", "random (layer=2, rate=0.5)"}
    assert {row["method"].partition(" ")[0] for row in rows(finished) if row["value"]} == {
        "Unpruned",
        "DyRate",
    }
    assert "reports/smoke/index.html are made from what there is" in output
    log = "results/smoke/logs/testbed-s/fastv-layer=2-rate=0.5/greedy.log"
    assert "dyrate: missing: testbed-s, fastv (layer=2, rate=0.5), greedy: all of it: gqa" in output
    assert output.count(f"no memory ({log})") == 2
    assert "Not complete." in (finished.folder / "reports/smoke/index.html").read_text()

    (finished.folder / "broken").unlink()
    assert rules_to_run(finished.snakemake("-n", *SMOKE)) == {"evaluate": 1, "tables": 1, "report": 1}
    finished.snakemake(*SMOKE)
    assert not [row for row in rows(finished) if row["missing"]]
    assert "Not complete." not in (finished.folder / "reports/smoke/index.html").read_text()


@pytest.mark.slow
def test_of_a_process_that_fails_what_it_had_made_is_kept(finished):
    made = "cp made-up/{output.results[0]} {output.results[0]}"
    fail(finished, "evaluate", "for made", "{output.results[0]} == *fastv*", f"{made}; kill -9 $$")

    finished.snakemake(*SMOKE, status=1)

    lost = [row for row in rows(finished) if row["missing"]]
    assert {row["method"] for row in lost} == {"random (layer=2, rate=0.5)"}
    assert {row["missing"].partition(":")[0] for row in lost} <= {
        "it ended without a word",
        "no job has begun to make it",
    }
    assert rules_to_run(finished.snakemake("-n", *SMOKE))["evaluate"] == 1, "its process is asked for again"


@pytest.mark.slow
def test_the_unpruned_model_failing_costs_no_other_row(finished):
    fail(finished, "evaluate", "for made", "{output.results[0]} == */none/*", "exit 2")

    finished.snakemake(*SMOKE, status=1)

    assert {row["method"] for row in rows(finished) if row["missing"]} == {"none"}
    assert {row["method"].partition(" ")[0] for row in rows(finished) if row["value"]} == {
        "FastV",
        "DyRate",
        "random",
    }


@pytest.mark.slow
def test_a_failed_training_costs_dyrate_alone(finished):
    says = "echo dyrate: error: data/paper/train.jsonl: no such file > {log:q}; exit 2"
    fail(finished, "predictors", "cp made-up", "1 == 1", says)
    finished.edit("config/smoke.yaml", "steps: 4", "steps: 5")

    output = finished.snakemake(*SMOKE, status=1)

    assert {row["method"] for row in rows(finished) if row["missing"]} == {
        "dyrate (predictor=hasty, layer=2)"
    }
    third = {row["method"]: row for row in rows(finished, "table3") if row["model"]}
    assert third["FastV (K=2, R=0.5)"]["latency_ms"]
    assert "its predictor hasty is not trained: data/paper/train.jsonl: no such file" in output
    assert "times of testbed-s+trained, Table III" in output


@pytest.mark.slow
def test_a_failed_benchmark_data_set_leaves_nothing_but_says_so(finished):
    fail(finished, "testbed", "cp made-up", "1 == 1", "echo dyrate: error: disk full > {log:q}; exit 2")
    finished.edit("config/smoke.yaml", "samples: 6", "samples: 7")

    output = finished.snakemake(*SMOKE, status=1)

    assert not [row for row in rows(finished) if row["value"]]
    assert "its data is not there: disk full (results/smoke/logs/build_benchmarks.log)" in output


def test_a_file_asked_for_by_name_that_fails_makes_no_tables(finished):
    fail(finished, "testbed", "cp made-up", "1 == 1", "exit 2")
    finished.edit("config/smoke.yaml", "samples: 6", "samples: 7")
    page = finished.folder / "reports/smoke/index.html"
    before = page.stat().st_mtime_ns

    finished.snakemake("data/smoke/gqa.parquet", *SMOKE, status=1)

    assert page.stat().st_mtime_ns == before


def test_the_plan_says_which_rows_will_be_missing_without_training_data(project):
    project.edit("config/paper.yaml", "name: plus, origin:", "name: plus, data: mine.jsonl, origin:")

    output = project.snakemake("-n", *PAPER)

    for model, rows in (("llava-1.5-7b", "2 rows"), ("llava-1.5-13b", "1 row")):
        assert (
            f"mine.jsonl is not there: predictor 'plus' of {model} will not be trained, and {rows} of the "
            "tables will be missing: dyrate-layer=2-predictor=plus greedy"
        ) in output
    (project.folder / "mine.jsonl").write_text("{}\n")
    assert "is not there" not in project.snakemake("-n", *PAPER)


def test_evaluations_wait_for_no_other(project):
    output = project.snakemake("results/paper/llava-1.5-7b/fastv-layer=2-rate=0.5/greedy.json", "-n", *PAPER)

    planned = rules_to_run(output)
    del planned["fetch_one"]
    assert planned == {"evaluate": 1}


def test_an_evaluation_waits_for_the_data_of_its_own_benchmarks_alone(project):
    ablation = "fixed_prune-layer=3-prune_prefill=False-rate=0.5"

    output = project.snakemake(f"results/paper/llava-1.5-7b/{ablation}/greedy.json", "-n", *PAPER)

    # The model, and three sets of captions: another that comes later makes nothing of this row again.
    assert rules_to_run(output) == {"evaluate": 1, "fetch_one": 4}


def test_where_jobs_write_their_logs_is_where_reasons_are_looked_for():
    study = Study.read(REPOSITORY / "config/paper.yaml")
    logs = {
        "evaluate": study.log("{first}"),
        "trace": study.log("{{model}}", "trace"),
        "latency": study.log("{{model}}", "latency"),
        "predictors": study.log("{{model}}", "train_predictor", "{{predictor}}"),
        "testbed": study.log("build_benchmarks"),
    }

    for rule, log in logs.items():
        text = (REPOSITORY / f"workflow/rules/{rule}.smk").read_text()
        assert f'f"{log}"' in text.replace("{study.name}", "paper"), rule
