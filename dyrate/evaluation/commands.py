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
from typing import TYPE_CHECKING, Any

from dyrate.errors import DyrateError
from dyrate.evaluation.benchmarks import BENCHMARKS, Benchmark, select
from dyrate.evaluation.decoding import ENGINES
from dyrate.registry import as_spec

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

--then starts another evaluation in the same process, on the loaded model. What it does not name it takes from
the evaluation before it, all but --baseline: differences are taken only where they are asked for. A baseline
may be the result of an earlier one. If one fails, the others run all the same, and the exit status tells.
"""

_EVALUATE_EXAMPLES = """\
examples:
  dyrate evaluate --model models/testbed-s --benchmarks gqa pope --samples 50 --output results/try/none
  dyrate evaluate --model models/testbed-s --method '{"name": "fastv", "layer": 2, "rate": 0.5}' \\
      --benchmarks gqa pope --samples 50 --baseline results/try/none/greedy.json --output results/try/fastv
  dyrate evaluate --model llava-hf/llava-1.5-7b-hf --tasks hub --benchmarks pope --dtype bfloat16 \\
      --method vtw --decoding beam-2 --batch-size 32 --output results/pope
  dyrate evaluate --model models/testbed-s --benchmarks gqa --samples 50 --output results/try/none \
      --then --method text_only --baseline results/try/none/greedy.json --output results/try/text_only

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
    _add_evaluation(evaluate)
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


def _add_evaluation(parser: argparse.ArgumentParser, first: bool = True) -> None:
    """Add the options of one evaluation; one after `--then` takes over what the first must name."""
    _add_what(parser, first)
    add_data(parser)
    add_machine(parser)
    _add_result(parser, first)
    parser.add_argument(
        "--then",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="another evaluation with the same model, device, dtype, engine, batch size and threads",
    )


def _add_what(parser: argparse.ArgumentParser, required: bool) -> None:
    what = parser.add_argument_group("what")
    what.add_argument("--model", required=required, metavar="M", help="a checkpoint's folder or hub id")
    what.add_argument(
        "--method", default="none", metavar="SPEC", help="a name, or JSON with its hyperparameters (none)"
    )
    what.add_argument(
        "--decoding", default="greedy", metavar="SPEC", help="greedy, beam-2, beam-5, top_p, or JSON"
    )
    what.add_argument(
        "--benchmarks", nargs="+", required=required, metavar="NAME", help=", ".join(BENCHMARKS)
    )
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


def _add_result(parser: argparse.ArgumentParser, required: bool) -> None:
    result = parser.add_argument_group("result")
    result.add_argument("--output", type=Path, required=required, metavar="DIR", help="folder of the files")
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
    parts = _parts(arguments)
    specs = [_specs(part) for part in parts]
    quiet_libraries()
    from dyrate.evaluation.evaluate import Evaluation
    from dyrate.evaluation.sweep import sweep

    jobs = [
        Evaluation(
            model=part.model,
            benchmarks=benchmarks,
            output=part.output,
            method=method,
            decoding=decoding,
            model_name=part.model_name,
            study=part.study,
            tasks=part.tasks,
            data=part.data,
            samples=part.samples,
            batch_size=part.batch_size,
            device=part.device,
            dtype=part.dtype,
            engine=part.engine,
            threads=part.threads,
            seed=part.seed,
            baseline=part.baseline,
            metrics=part.metrics,
        )
        for part, (benchmarks, method, decoding) in zip(parts, specs, strict=True)
    ]
    status = 0
    for job, outcome in zip(jobs, sweep(jobs, _STARTED), strict=True):
        if not isinstance(outcome, Exception):
            print("\n".join([*summary(outcome), "", str(job.files.result)]), flush=True)
        elif len(jobs) == 1:
            raise outcome
        else:
            status = 2
            if not isinstance(outcome, DyrateError):
                traceback.print_exception(outcome)
            print(f"dyrate: error: {job.files.result}: {outcome}", file=sys.stderr, flush=True)
    return status


def _parts(first: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments of each evaluation that a command line asks for."""
    after = argparse.ArgumentParser(prog="dyrate evaluate ... --then")
    _add_evaluation(after, first=False)
    parts = [first]
    while (rest := parts[-1].then) is not None:
        inherited = {**vars(parts[-1]), "baseline": None, "then": None}
        parts.append(after.parse_args(rest, argparse.Namespace(**inherited)))
    return parts


def _specs(part: argparse.Namespace) -> tuple[Sequence[Benchmark], dict[str, Any], dict[str, Any]]:
    """The benchmarks, the method and the decoding strategy that an evaluation's arguments name."""
    decoding = as_spec(part.decoding, "--decoding")
    if decoding.get("name") == "top_p":
        decoding.setdefault("seed", part.seed)
    return select(part.benchmarks), as_spec(part.method, "--method"), decoding


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
                "testbed_task": benchmark.testbed_task,
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
            f"{benchmark.name:<11}{benchmark.title:<15}{benchmark.group:<9}{benchmark.primary.name}", end=""
        )
        print(f" ({benchmark.primary.unit})")
        print(f"{'':<11}tasks: {benchmark.testbed_task}, {benchmark.hub_task}")
        print(f"{'':<11}chance: {benchmark.chance}")
        if benchmark.note:
            print(f"{'':<11}note: {benchmark.note}")
    return 0
