"""The rules, run by Snakemake itself in a copy of the project, on made-up results."""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

SMOKE = ("--configfile", "config/smoke.yaml")
TIMES = Path(__file__).parents[1] / "report/speed/decode.json"


def rules_to_run(output: str) -> dict[str, int]:
    """Counts of Snakemake's last job table; the sweeps' rules together, as `evaluate`."""
    table = output.rpartition("Job stats:")[2].partition("total")[0]
    counts: Counter[str] = Counter()
    for name, count in re.findall(r"^([\w.-]+)\s+(\d+)\s*$", table, re.MULTILINE):
        counts["evaluate" if name.startswith("evaluate_") else name] += int(count)
    del counts["all"]
    return dict(counts)


def test_a_finished_study_has_nothing_to_do(finished):
    output = finished.snakemake(*SMOKE)

    assert "Nothing to be done" in output


def test_each_edit_reruns_what_uses_it_and_no_more(finished):
    def rerun():
        return rules_to_run(finished.snakemake("-n", *SMOKE))

    # Another method's code, and new times everywhere, as a fresh clone has them.
    finished.edit("dyrate/methods/vtw.py", "self.layer", "self.layer + 0")
    for path in (finished.folder / "dyrate").rglob("*.py"):
        os.utime(path)
    assert rerun() == {}

    finished.edit("dyrate/methods/fastv.py", "self.layer - 1", "self.layer - 2")
    assert rerun() == {"evaluate": 1, "latency": 1, "tables": 1, "report": 1}

    finished.edit("dyrate/methods/fastv.py", "self.layer - 2", "self.layer - 1")
    finished.edit("dyrate/report/templates/style.css", "--paper", "--sheet")
    assert rerun() == {"tables": 1, "report": 1}


def test_a_new_time_on_a_gpu_makes_a_new_page_and_no_more(finished):
    times = finished.folder / "results/h200/decode.json"
    times.parent.mkdir()
    shutil.copy(TIMES, times)
    assert rules_to_run(finished.snakemake("-n", *SMOKE)) == {"report": 1}

    finished.snakemake(*SMOKE)
    os.utime(times)
    assert "Nothing to be done" in finished.snakemake(*SMOKE)
    assert "NVIDIA H200" in (finished.folder / "reports/smoke/cost.html").read_text()


def test_a_new_method_runs_only_its_sweep_and_the_aggregation(finished):
    finished.edit("config/smoke.yaml", "\nbenchmarks:", "  - {name: vtw, layer: 4}\nbenchmarks:")

    todo = rules_to_run(finished.snakemake("-n", *SMOKE))

    assert todo == {"evaluate": 1, "study": 1, "tables": 1, "report": 1}


def test_methods_that_change_places_run_again_but_for_the_unpruned_and_other_groups(finished):
    entry = "  - {name: dyrate, predictor: hasty, layer: 2, mode: evict, group: predictor}\n"
    finished.edit(
        "config/smoke.yaml", "  - {name: fastv", f"  - {{name: vtw, layer: 4}}\n{entry}  - {{name: fastv"
    )

    output = finished.snakemake("-n", *SMOKE)

    # vtw beside fastv, random alone, the new group; not the unpruned model and main's DyRate.
    assert rules_to_run(output) == {"evaluate": 3, "study": 1, "tables": 1, "report": 1}
    assert "testbed-s: vtw-layer=4 greedy, fastv-layer=2-rate=0.5 greedy (1 threads" in output


def test_methods_share_a_process_and_its_log(finished):
    assert rules_to_run(finished.snakemake("-n", "--forceall", *SMOKE))["evaluate"] == 3
    logs = finished.folder / "results/smoke/logs/testbed-s"

    assert sorted(str(path.relative_to(logs)) for path in logs.rglob("greedy.log")) == [
        "dyrate-layer=2-predictor=hasty/greedy.log",
        "fastv-layer=2-rate=0.5/greedy.log",  # and random
        "none/greedy.log",
    ]


def test_a_failed_jobs_response_log_outlives_it(finished):
    folder = finished.folder / "results/smoke/testbed-s/none"
    assert (folder / "greedy.json").exists()
    finished.edit(
        "workflow/rules/evaluate.smk",
        '"for made',
        '"echo {{}} > $(dirname {output.runs[0]})/greedy.log.jsonl; exit 3; for made',
    )

    output = finished.snakemake(*SMOKE, status=1)

    assert "Error in rule evaluate" in output
    assert (folder / "greedy.log.jsonl").read_text() == "{}\n"
    assert not (folder / "greedy.json").exists()


def test_a_sample_count_on_the_command_line_changes_the_default_study(project):
    study = project.make_up_results("config/testbed.yaml")

    output = project.snakemake("-n", "--forceall", "--config", "samples=5")

    todo = rules_to_run(output)
    traces, survivals = todo.pop("trace"), todo.pop("survival")
    assert (survivals, todo.pop("survival_page")) == (2, 1)
    assert todo.pop("latency") == 2
    assert todo == {
        "build_benchmarks": 1,
        "evaluate": len(study.sweeps),
        "study": 1,
        "tables": 1,
        "report": 1,
    }
    assert output.count("--samples 5") == 1 + traces + survivals
    assert output.count('"samples": 5, "subsets": {}, "batch_size"') == len(study.jobs)


def test_the_papers_study_is_planned_offline(project):
    output = project.snakemake("-n", "--configfile", "config/paper.yaml", "--config", "dtype=float16")

    todo = rules_to_run(output)
    assert (todo["training_questions"], todo["train_predictor"]) == (1, 6)
    assert todo["evaluate"] == 87
    assert "testbed-s" not in output, "the default study leaks into the named one"
    assert output.count(", 1 GPU)") >= 19 + 2
    assert output.count("--data data/paper/train.jsonl") == 6
    assert output.count("--dtype bfloat16") == 6, "in float16 the gates of training have no gradient"


def test_a_mistake_in_the_config_is_one_clear_line(project):
    project.edit("config/smoke.yaml", "samples: 6", "sampels: 6")

    output = project.snakemake("-n", *SMOKE, status=1)

    assert "sampels is unknown; did you mean 'samples'?" in output


def test_a_key_that_a_config_gives_twice_is_refused(project):
    project.edit("config/smoke.yaml", "samples: 6", "samples: 6\nsamples: 7")

    output = project.snakemake("-n", *SMOKE, status=1)

    assert "config/smoke.yaml is no YAML: line 6: the key 'samples' stands there twice" in output


def test_a_directory_is_unlocked_without_a_number_of_cores(project):
    done = project.run("python", "-m", "snakemake", "--unlock")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unlocked working directory" in done.stdout + done.stderr


def test_snakemakes_own_report_holds_the_tables(finished):
    finished.snakemake(*SMOKE, "--report", "items.html")

    page = (finished.folder / "items.html").read_text(encoding="utf-8")
    tables = ("table1", "table2", "table3", "ablation_strategy", "ablation_decoding", "ablation_predictor")
    for item in (
        *(f"{key}.{kind}" for key in tables for kind in ("csv", "html")),
        "equal_budget.csv",
        "index.html",
    ):
        assert item in page
    assert "I: questions and short answers" in page
    assert "not comparable in value" in page


def test_two_settings_of_one_decoding_are_planned_apart(project):
    project.edit(
        "config/smoke.yaml",
        "benchmarks:",
        "decodings: [{name: top_p}, {name: top_p, top_p: 0.7}]\nbenchmarks:",
    )

    output = project.snakemake("-n", *SMOKE)

    assert rules_to_run(output)["evaluate"] == 4
    assert "results/smoke/testbed-s/none/top_p-top_p=0.7.json" in output


def test_an_edited_file_of_a_task_folder_reruns_the_jobs(finished):
    (finished.folder / "tasks").mkdir()
    task = finished.folder / "tasks/gqa.yaml"
    task.write_text("task: gqa")
    finished.edit("config/smoke.yaml", "tasks: testbed", "tasks: tasks")
    finished.snakemake(*SMOKE, "--touch", "--ignore-incomplete")

    task.write_text("task: gqa # other data")

    assert rules_to_run(finished.snakemake("-n", *SMOKE))["evaluate"] == 3


def test_a_predictors_code_and_files_rerun_what_uses_them_and_no_more(finished):
    folder = finished.folder / "results/smoke/predictors/testbed-s/hasty"

    finished.edit("dyrate/predictor_training/train.py", "import ", "import json as _\nimport ")
    todo = rules_to_run(finished.snakemake("-n", *SMOKE))
    assert todo["train_predictor"] == todo["evaluate"] == 1

    finished.edit("dyrate/predictor_training/train.py", "import json as _\nimport ", "import ")
    (folder / "predictor.safetensors").write_bytes(b"other weights")
    todo = rules_to_run(finished.snakemake("-n", *SMOKE))
    assert todo == {"evaluate": 1, "latency": 1, "tables": 1, "report": 1}


def test_a_shipped_predictor_is_used_until_it_shall_be_trained_again(finished):
    shipped = finished.folder / "predictors/smoke/testbed-s/hasty"
    shutil.copytree(finished.folder / "results/smoke/predictors/testbed-s/hasty", shipped)

    output = finished.snakemake("-n", *SMOKE)
    expected = {"evaluate": 2, "latency": 1, "tables": 1, "report": 1}
    assert rules_to_run(output) == expected, "it need not wait: it joins fastv"
    assert '"predictor": "predictors/smoke/testbed-s/hasty"' in output

    made_up = finished.folder / "made-up/results/smoke/testbed-s/dyrate-layer=2-predictor=hasty/greedy.json"
    text = made_up.read_text()
    made_up.write_text(text.replace("results/smoke/predictors/testbed-s", "predictors/smoke/testbed-s"))
    finished.snakemake(*SMOKE)
    for path in shipped.iterdir():
        os.utime(path)  # as in a fresh clone
    assert "Nothing to be done" in finished.snakemake("-n", *SMOKE)
    (shipped / "predictor.safetensors").write_bytes(b"other weights")
    assert rules_to_run(finished.snakemake("-n", *SMOKE))["evaluate"] == 1

    todo = rules_to_run(finished.snakemake("-n", *SMOKE, "--config", "retrain=1", "--forceall"))
    assert todo["train_predictor"] == 1


def test_a_mistake_in_a_recipe_is_refused_before_anything_runs(project):
    project.edit("config/smoke.yaml", "ranking_steps: 4", "ranking_stepss: 4")

    output = project.snakemake("-n", *SMOKE, status=1)

    assert "predictors: hasty: ranking_stepss is unknown; did you mean 'ranking_steps'?" in output


# As much of conda as Snakemake asks for: an environment whose Python only says that it is one.
CONDA = """#!/bin/bash
case "$1 $2" in
  "info --json") echo '{{"conda_version": "25.1.0", "conda_prefix": "{0}", "root_prefix": "{0}",\
 "platform": "linux-64"}}' ;;
  "--version ") echo conda 25.1.0 ;;
  "config --get") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
  "env create")
    while [ "$1" != --prefix ]; do shift; done
    mkdir -p "$2/bin" && cp {0}/python "$2/bin/python" ;;
esac
"""


def test_with_conda_jobs_run_the_python_of_their_own_environment(project, monkeypatch):
    bin_ = project.folder / "conda/bin"
    bin_.mkdir(parents=True)
    for name, text in {
        "conda": CONDA.format(bin_.parent),
        "activate": 'export PATH="$1/bin:$PATH"',
        "../python": "#!/bin/bash\necho the python of the environment; exit 3",
    }.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    project.edit(
        "workflow/rules/testbed.smk", '"python -m dyrate.cli', '"python --version > {log:q}; exit 3; #'
    )

    project.snakemake("data/smoke/gqa.parquet", "--sdm", "conda", *SMOKE, status=1)

    log = (project.folder / "results/smoke/logs/build_benchmarks.log").read_text()
    assert "the python of the environment" in log
