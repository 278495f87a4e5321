"""`dyrate evaluate` and `dyrate benchmarks`. Imports nothing slow until a command runs."""

import argparse
import atexit
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.job import Evaluation
from dyrate.jobs import FromFile, Subparsers, asked

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
A benchmark that fails (no data, an image that is none) takes no other with it: what there is becomes
greedy.partial.json, which says why the rest is missing, and the exit status is 2. The same command again asks
for what is missing alone.

--adapter makes --model the name of one of lmms-eval's adapters, which then answers in place of this package:
greedily, without a method, one question at a time unless its arguments say `batch_size`. Its JSON holds the
adapter's `arguments`, and `revision`, `trust_remote_code` and `cut_prompt` as README.md explains them.

--jobs takes a list of evaluations from a file; they run in this process, one after another, on one loaded
model. Each is a mapping of the options below (batch_size for --batch-size); those that stand beside --jobs
hold for all that do not name them. A baseline may be the result of an earlier one. If one fails, the others
run all the same, and the exit status tells.
"""

_EVALUATE_EXAMPLES = """\
examples:
  dyrate evaluate --model models/testbed-s --benchmarks gqa pope --samples 50 --output results/try/none
  dyrate evaluate --model models/testbed-s --method '{"name": "fastv", "layer": 2, "rate": 0.5}' \\
      --benchmarks gqa pope --samples 50 --baseline results/try/none/greedy.json --output results/try/fastv
  dyrate evaluate --model llava-hf/llava-1.5-7b-hf --tasks hub --benchmarks pope --dtype bfloat16 \\
      --method vtw --decoding beam-2 --batch-size 32 --output results/pope
  dyrate evaluate --model instructblip --tasks hub --benchmarks gqa --output results/blip --adapter \
      '{"arguments": {"pretrained": "Salesforce/instructblip-vicuna-7b"}, "cut_prompt": true}'
  dyrate evaluate --model models/testbed-s --benchmarks gqa --samples 50 --jobs jobs.yaml
    - {output: results/try/none}
    - {output: results/try/text_only, method: text_only, baseline: results/try/none/greedy.json}

`dyrate methods` lists methods and their hyperparameters, `dyrate benchmarks` the benchmarks.
"""

_BENCHMARKS = "List the benchmarks: names, lmms-eval tasks, primary metric, and what guessing scores."


def register(subparsers: Subparsers) -> None:
    """Add the sub-commands."""
    evaluate = Evaluation.add_parser(
        subparsers, "evaluate a model with a reduction method on benchmarks", _EVALUATE, _EVALUATE_EXAMPLES
    )
    evaluate.add_argument(
        "--jobs", action=FromFile, metavar="FILE", help="a YAML or JSON list of evaluations: see above"
    )
    evaluate.add_argument(
        "--part",
        metavar="K/N",
        help="of N processes the K-th: answer every N-th batch into a log of its own, and score nothing. The "
        "same command without --part then finds those answers, gives what is missing, and scores",
    )
    evaluate.set_defaults(run=_evaluate, jobs=None)

    benchmarks = subparsers.add_parser(
        "benchmarks",
        help="list the benchmarks",
        description=_BENCHMARKS,
        epilog="example:\n  dyrate benchmarks --json | jq '.gqa'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmarks.add_argument("--json", action="store_true", help="as JSON")
    benchmarks.set_defaults(run=_list_benchmarks)


def _evaluate(arguments: argparse.Namespace) -> int:
    jobs = asked(Evaluation, arguments, arguments.jobs)
    quiet_libraries()
    if arguments.part is not None:
        return _answer(jobs, arguments.part)
    from dyrate.evaluation.sweep import sweep

    status = 0
    for job, outcome in zip(jobs, sweep(jobs, _STARTED), strict=True):
        if not isinstance(outcome, Exception):
            failed = outcome.get("failed", {})
            path = job.files.partial.result if failed else job.files.result
            print("\n".join([*summary(outcome), "", str(path)]), flush=True)
            for name, reason in failed.items():
                status = 2
                where = f"{name}: " if len(jobs) == 1 else f"{job.files.result}: {name}: "
                print(f"dyrate: error: {where}{reason}", file=sys.stderr, flush=True)
        elif len(jobs) == 1:
            raise outcome
        else:
            status = 2
            if not isinstance(outcome, DyrateError):
                traceback.print_exception(outcome)
            print(f"dyrate: error: {job.files.result}: {outcome}", file=sys.stderr, flush=True)
    return status


def _answer(jobs: Sequence[Evaluation], part: str) -> int:
    """What fails here fails again where the whole is scored, and is told there."""
    from dyrate.evaluation.parts import answer

    for where, error in answer(jobs, part):
        print(f"dyrate: {where}: {error}; left to the evaluation itself", file=sys.stderr, flush=True)
    return 0


def quiet_libraries() -> None:
    """Leave warnings and errors of lmms-eval and datasets, on stderr; not their progress.

    To be called before either is imported: without a home to write to, datasets get a cache for the run.
    """
    if "HF_DATASETS_CACHE" not in os.environ and not _has_datasets_cache():
        os.environ["HF_DATASETS_CACHE"] = folder = tempfile.mkdtemp(prefix="dyrate-datasets-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for library in ("HF_DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    import lmms_eval.evaluator  # noqa: F401 - importing it sends the log to stdout
    from loguru import logger
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level}: {message}")


def _has_datasets_cache() -> bool:
    """Whether datasets can write where it keeps what it has read, in the home unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    try:
        folder = Path(home).expanduser() / "datasets"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home is known
        return False
    return os.access(folder, os.W_OK | os.X_OK)


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
                "testbed_task": benchmark.testbed_task if benchmark.testbed else None,
                "hub_task": benchmark.hub_task,
                "chance": benchmark.chance,
                "note": benchmark.note,
            }
            for benchmark in BENCHMARKS.values()
        }
        print(json.dumps(listing, indent=1))
        return 0
    for benchmark in BENCHMARKS.values():
        print(
            f"{benchmark.name:<14}{benchmark.title:<15}{benchmark.group:<10}{benchmark.primary.name}", end=""
        )
        print(f" ({benchmark.primary.unit})")
        tasks = [benchmark.testbed_task] * benchmark.testbed + [benchmark.hub_task]
        print(f"{'':<14}tasks: {', '.join(tasks)}")
        print(f"{'':<14}chance: {benchmark.chance}")
        if benchmark.note:
            print(f"{'':<14}note: {benchmark.note}")
    return 0
