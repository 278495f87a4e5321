"""The command line: gathers the sub-commands that each part of the package registers."""

import argparse
import os
import sys
from collections.abc import Sequence

from dyrate import __version__
from dyrate.errors import DyrateError

_SIGPIPE = 141  # what a shell reports for a program whose reader went away


def parser() -> argparse.ArgumentParser:
    """Build the argument parser; imports only the light `commands` modules."""
    from dyrate import method_commands as methods
    from dyrate.bench import commands as bench
    from dyrate.bench.end_to_end import commands as bench_harness
    from dyrate.bench.training import commands as bench_training
    from dyrate.convert import commands as convert
    from dyrate.evaluation import commands as evaluation
    from dyrate.evaluation.hub import commands as hub
    from dyrate.look import commands as look
    from dyrate.predictor_training import commands as predictor_training
    from dyrate.preflight import commands as preflight
    from dyrate.report import commands as report
    from dyrate.testbed import commands as testbed
    from dyrate.trace import commands as trace
    from dyrate.training_questions import commands as training_questions

    top = argparse.ArgumentParser(
        prog="dyrate",
        description="Visual-token reduction in vision-language models: methods, benchmarks, tables.",
        epilog="The whole study: `make report`. Each sub-command explains itself: `dyrate evaluate --help`.",
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parts = (
        *(methods, look, preflight, evaluation, hub, trace, training_questions, predictor_training),
        *(bench, bench_harness, bench_training, convert, testbed, report),
    )
    for part in parts:
        part.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; a user's mistake is one line on stderr and exit status 2."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `dyrate benchmarks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return _SIGPIPE
    except DyrateError as error:
        print(f"dyrate: error: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
