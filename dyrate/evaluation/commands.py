"""`dyrate evaluate` and `dyrate benchmarks`. Imports nothing slow until a command runs."""

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from dyrate.evaluation.benchmarks import BENCHMARKS, select
from dyrate.evaluation.decoding import ENGINES
from dyrate.evaluation.specs import as_spec

if TYPE_CHECKING:
    from dyrate.evaluation.results import Result

_STARTED = perf_counter()  # as near to the start of the process as this package sees

_EVALUATE = """\
Evaluate one model with one reduction method and one decoding strategy on some benchmarks.

lmms-eval asks the questions and scores the answers; dyrate adds 95% intervals, paired differences to a
baseline, and the visual tokens that each layer really worked on. Four files are written into --output:
  greedy.json              scores: the same inputs give the same bytes
  greedy.run.json          when, where and how fast
  greedy.answers.parquet   every prompt, answer, reference and score
  greedy.log.jsonl         the response log: a killed run, started again, goes on from it
"""

_EVALUATE_EXAMPLES = """\
examples:
  dyrate evaluate --model models/testbed-s --benchmarks gqa pope --samples 50 --output results/try/none
  dyrate evaluate --model models/testbed-s --method '{"name": "fastv", "layer": 2, "rate": 0.5}' \\
      --benchmarks gqa pope --samples 50 --baseline results/try/none/greedy.json --output results/try/fastv
  dyrate evaluate --model llava-hf/llava-1.5-7b-hf --tasks hub --benchmarks pope --dtype bfloat16 \\
      --method vtw --decoding beam-2 --batch-size 32 --output results/pope

`dyrate methods` lists methods and their hyperparameters, `dyrate benchmarks` the benchmarks.
"""

_BENCHMARKS = "List the benchmarks: names, lmms-eval tasks, primary metric, and what guessing scores."


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-commands."""
    evaluate = subparsers.add_parser(
        "evaluate",
        help="evaluate a model with a reduction method on benchmarks",
        description=_EVALUATE,
        epilog=_EVALUATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(evaluate)
    add_data(evaluate)
    add_machine(evaluate)
    _add_result(evaluate)
    evaluate.set_defaults(run=_evaluate)

    benchmarks = subparsers.add_parser(
        "benchmarks",
        help="list the benchmarks",
        description=_BENCHMARKS,
        epilog="example:\n  dyrate benchmarks --json | jq '.gqa'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmarks.add_argument("--json", action="store_true", help="as JSON")
    benchmarks.set_defaults(run=_list_benchmarks)


def _add_what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what")
    what.add_argument("--model", required=True, metavar="M", help="a checkpoint's folder or hub id")
    what.add_argument(
        "--method", default="none", metavar="SPEC", help="a name, or JSON with its hyperparameters (none)"
    )
    what.add_argument(
        "--decoding", default="greedy", metavar="SPEC", help="greedy, beam-2, beam-5, top_p, or JSON"
    )
    what.add_argument("--benchmarks", nargs="+", required=True, metavar="NAME", help=", ".join(BENCHMARKS))
    what.add_argument(
        "--samples", type=positive, metavar="N", help="per benchmark; pairs and rotations stay whole"
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add where the benchmarks' data come from."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--tasks",
        default="testbed",
        metavar="WHERE",
        help="testbed (local parquet), hub (lmms-eval's own data sets), or a folder of task files (testbed)",
    )
    data.add_argument("--data", type=Path, metavar="DIR", help="folder of the parquet files (data/testbed)")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add what the model runs on, and the seed."""
    how = parser.add_argument_group("how")
    how.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="halved when memory is short (16)"
    )
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    how.add_argument(
        "--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="(float32)"
    )
    how.add_argument(
        "--engine",
        default="auto",
        choices=ENGINES,
        help="what generates: transformers, or graph, this package's own engine of fused kernels and CUDA "
        "graphs, which has no beams; auto takes the latter on a GPU where it can (auto)",
    )
    how.add_argument("--threads", type=positive, metavar="N", help="CPU threads (as many as torch takes)")
    how.add_argument(
        "--seed", type=natural, default=0, metavar="S", help="of the bootstrap and of sampling (0)"
    )


def _add_result(parser: argparse.ArgumentParser) -> None:
    result = parser.add_argument_group("result")
    result.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the four files")
    result.add_argument(
        "--baseline", type=Path, metavar="JSON", help="result to take paired differences from"
    )
    result.add_argument(
        "--metrics",
        default="all",
        choices=("all", "primary"),
        help="primary leaves out what the tables do not show: METEOR takes longer than a small model (all)",
    )
    result.add_argument("--study", default="adhoc", metavar="NAME", help="written into the result (adhoc)")
    result.add_argument("--model-name", metavar="NAME", help="written into the result (the folder's name)")


def positive(text: str) -> int:
    """Parse a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def natural(text: str) -> int:
    """Parse a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _evaluate(arguments: argparse.Namespace) -> int:
    benchmarks = select(arguments.benchmarks)
    method = as_spec(arguments.method, "--method")
    decoding = as_spec(arguments.decoding, "--decoding")
    if decoding.get("name") == "top_p":
        decoding.setdefault("seed", arguments.seed)
    quiet_libraries()
    from dyrate.evaluation.evaluate import Evaluation, evaluate

    job = Evaluation(
        model=arguments.model,
        benchmarks=benchmarks,
        output=arguments.output,
        method=method,
        decoding=decoding,
        model_name=arguments.model_name,
        study=arguments.study,
        tasks=arguments.tasks,
        data=arguments.data,
        samples=arguments.samples,
        batch_size=arguments.batch_size,
        device=arguments.device,
        dtype=arguments.dtype,
        engine=arguments.engine,
        threads=arguments.threads,
        seed=arguments.seed,
        baseline=arguments.baseline,
        metrics=arguments.metrics,
    )
    result = evaluate(job, _STARTED)
    print("\n".join(summary(result)))
    print(f"\n{job.files.result}")
    return 0


def quiet_libraries() -> None:
    """Leave warnings and errors of lmms-eval and datasets, on stderr; not their progress."""
    import os
    import sys

    for library in ("HF_DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    import lmms_eval.evaluator  # noqa: F401 - importing it sends the log to stdout
    from loguru import logger
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level}: {message}")


def summary(result: "Result") -> list[str]:
    """The primary scores as lines of text."""
    lines = [f"{result['model']}: {result['label']}, {result['decoding']['name']}", ""]
    lines.append(
        f"{'benchmark':<12}{'metric':<14}{'score':>8}   {'95% interval':<18}{'difference':>11}{'n':>7}"
    )
    for name, found in result["benchmarks"].items():
        score = found["scores"][found["primary"]]
        interval = "" if score["low"] is None else f"[{score['low']:.1f}, {score['high']:.1f}]"
        change = (found["difference"] or {}).get(found["primary"])
        moved = "" if change is None else f"{change['value']:+.1f}"
        head = f"{name:<12}{found['primary']:<14}{score['value']:>8.1f}"
        lines.append(f"{head}   {interval:<18}{moved:>11}{found['samples']:>7}")
    return lines


def _list_benchmarks(arguments: argparse.Namespace) -> int:
    if arguments.json:
        listing = {
            benchmark.name: {
                "title": benchmark.title,
                "group": benchmark.group,
                "primary": benchmark.primary.name,
                "unit": benchmark.primary.unit,
                "testbed_task": benchmark.testbed_task,
                "hub_task": benchmark.hub_task,
                "chance": benchmark.chance,
            }
            for benchmark in BENCHMARKS.values()
        }
        print(json.dumps(listing, indent=1))
        return 0
    for benchmark in BENCHMARKS.values():
        print(
            f"{benchmark.name:<11}{benchmark.title:<15}{benchmark.group:<9}{benchmark.primary.name}", end=""
        )
        print(f" ({benchmark.primary.unit})")
        print(f"{'':<11}tasks: {benchmark.testbed_task}, {benchmark.hub_task}")
        print(f"{'':<11}chance: {benchmark.chance}")
    return 0
