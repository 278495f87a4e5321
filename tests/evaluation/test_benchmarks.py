"""The table of benchmarks, and that the local tasks ask and score as lmms-eval's own do."""

import subprocess
import sys
from pathlib import Path

import lmms_eval.tasks
import pytest
from lmms_eval.utils import load_yaml_config

import dyrate.evaluation
from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS, Benchmark, select

OURS = Path(dyrate.evaluation.__file__).parent / "tasks"
THEIRS = Path(lmms_eval.tasks.__file__).parent
LOCAL = {name: benchmark for name, benchmark in BENCHMARKS.items() if benchmark.testbed}
ALL = pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
ALL_LOCAL = pytest.mark.parametrize("benchmark", LOCAL.values(), ids=LOCAL)


def _hub(benchmark: Benchmark) -> dict:
    return load_yaml_config(str(THEIRS / benchmark.hub_folder / f"{benchmark.hub_task}.yaml"), mode="full")


def _local(benchmark: Benchmark) -> dict:
    return load_yaml_config(str(OURS / f"{benchmark.name}.yaml"), mode="full")


@ALL_LOCAL
def test_a_local_task_asks_and_scores_as_the_hub_task(benchmark: Benchmark) -> None:
    hub, local = _hub(benchmark), _local(benchmark)
    assert hub["task"] == benchmark.hub_task
    assert local["task"] == benchmark.testbed_task
    for key in ("doc_to_text", "doc_to_visual", "doc_to_target", "process_results"):
        theirs = hub.get(key)
        name = theirs.__name__ if callable(theirs) else theirs
        assert (local[key].__name__ if callable(local.get(key)) else local.get(key)) == name, key
    theirs = (hub.get("lmms_eval_specific_kwargs") or {}).get("default")
    assert (local.get("lmms_eval_specific_kwargs") or {}).get("default") == theirs
    aggregations = {entry["metric"]: entry["aggregation"] for entry in hub["metric_list"]}
    for entry in local["metric_list"]:
        expected, ours = aggregations[entry["metric"]], entry["aggregation"]
        assert getattr(ours, "__name__", ours) == getattr(expected, "__name__", expected)


@ALL_LOCAL
def test_new_tokens_differ_from_the_hub_task_only_where_an_answer_needs_fewer(benchmark: Benchmark) -> None:
    theirs = _hub(benchmark)["generation_kwargs"].get("max_new_tokens")
    ours = _local(benchmark)["generation_kwargs"]["max_new_tokens"]
    capped = {"vizwiz": None, "textvqa": None, "pope": 128, "mmb": 1024}
    assert theirs == capped.get(benchmark.name, ours)
    assert (benchmark.hub_new_tokens is not None) == (theirs is None)


@ALL
def test_every_harness_metric_is_one_that_the_tasks_report(benchmark: Benchmark) -> None:
    for task in (_hub(benchmark), *([_local(benchmark)] if benchmark.testbed else [])):
        reported = {entry["metric"] for entry in task["metric_list"]}
        assert {name for metric in benchmark.metrics for name in metric.harness} <= reported


@ALL
def test_nothing_is_scored_by_a_judge(benchmark: Benchmark) -> None:
    names = {name for metric in benchmark.metrics for name in metric.harness}
    asked = {entry["metric"]: entry["aggregation"] for entry in _hub(benchmark)["metric_list"]}
    assert all("gpt" not in name or "static" in asked[name].__name__ for name in names)


def test_the_testbed_has_the_papers_benchmarks_and_textvqa() -> None:
    assert len(LOCAL) == 11
    assert {path.stem for path in OURS.iterdir()} == set(LOCAL)


def test_no_local_task_has_a_name_of_lmms_eval() -> None:
    taken = {path.stem for path in THEIRS.rglob("*.yaml")}
    assert not taken & {benchmark.testbed_task for benchmark in BENCHMARKS.values()}


def test_benchmarks_are_chosen_by_name() -> None:
    assert [benchmark.title for benchmark in select(["pope", "gqa"])] == ["POPE", "GQA"]
    with pytest.raises(DyrateError, match="unknown benchmark 'poppe'; did you mean 'pope'"):
        select(["poppe"])
    with pytest.raises(DyrateError, match="'gqa' is given twice"):
        select(["gqa", "gqa"])


def test_the_light_modules_load_without_torch() -> None:
    code = (
        "import sys, dyrate.evaluation.commands, dyrate.evaluation.results, dyrate.evaluation.benchmarks;"
        "print([m for m in ('torch', 'transformers', 'lmms_eval', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
