"""`dyrate trace`: where the unpruned model looks while it answers. Imports nothing slow until it runs."""

import argparse
import sys
from typing import TYPE_CHECKING

from dyrate.evaluation.commands import quiet_libraries
from dyrate.evaluation.placement import settled
from dyrate.jobs import Subparsers, asked
from dyrate.trace.job import Trace

if TYPE_CHECKING:
    from dyrate.evaluation.results import Estimate
    from dyrate.trace.files import Summary

_TRACE = """\
Record where the unpruned model looks while it answers: the attention mass of each step's newest token on
system, image, instruction and response tokens, in every layer, up to each answer's end (greedy decoding).

Three files are written, named after --output; the same inputs give the same bytes:
  testbed-s.json            does visual attention decay as the answer grows? figures with 95% intervals
  testbed-s.parquet         class mass per benchmark, sample, step and layer; heads averaged
  testbed-s.heads.parquet   class mass per benchmark, step, layer and head; samples averaged
Where a benchmark fails, what there is becomes testbed-s.partial.json, and the exit status is 2.
"""

_EXAMPLES = """\
examples:
  dyrate testbed build --benchmarks nocaps gqa --samples 50 --output data/testbed
  dyrate trace --model models/testbed-s --benchmarks nocaps gqa --output results/try/testbed-s.json
  dyrate trace --model llava-hf/llava-1.5-7b-hf --tasks hub --benchmarks nocaps --samples 200 \\
      --dtype float16 --output results/try/llava-1.5-7b.json
"""


def register(subparsers: Subparsers) -> None:
    """Add `dyrate trace`."""
    parser = Trace.add_parser(subparsers, "record where a model looks while it answers", _TRACE, _EXAMPLES)
    parser.set_defaults(run=_trace)


def _trace(arguments: argparse.Namespace) -> int:
    [job] = map(settled, asked(Trace, arguments))
    quiet_libraries()
    from dyrate.trace.collect import trace
    from dyrate.trace.files import TraceFiles

    summary = trace(job)
    failed = summary.get("failed", {})
    print("\n".join(lines(summary)))
    print(f"\n{TraceFiles(job.output).partial.summary if failed else job.output}", flush=True)
    for name, reason in failed.items():
        print(f"dyrate: error: {name}: {reason}", file=sys.stderr)
    return 2 if failed else 0


def lines(summary: "Summary") -> list[str]:
    """The summary as lines of text: image mass at the first step and in the last quarter of the answers."""
    layers, head = summary["layers"], f"{'benchmark':<12}{'n':>5}{'steps':>7}{'first':>8}{'last':>8}"
    found = [
        f"{summary['model']}: attention on the image, in percent, mean over {layers} layers",
        "",
        f"{head}   {'last - first':<24}rank correlation with the step",
    ]
    for name, benchmark in summary["benchmarks"].items():
        line = f"{name:<12}{benchmark['samples']:>5}{benchmark['steps']:>7.1f}"
        if benchmark["trends"] is None:
            long = f"{benchmark['growing']} of {benchmark['samples']} answers are long enough"
            found.append(f"{line}   does not apply: {long} to grow")
            continue
        trend = benchmark["trends"]["img"]
        line += f"{100 * trend['first']:>8.1f}{100 * trend['last']:>8.1f}"
        change = _estimate(trend["difference"], 100, 1)
        found.append(f"{line}   {change:<24}{_estimate(trend['rank_correlation'], 1, 2)}")
    return found


def _estimate(estimate: "Estimate", scale: float, digits: int) -> str:
    value = f"{scale * estimate['value']:+.{digits}f}"
    if estimate["low"] is None or estimate["high"] is None:
        return value
    return f"{value} [{scale * estimate['low']:+.{digits}f}, {scale * estimate['high']:+.{digits}f}]"
