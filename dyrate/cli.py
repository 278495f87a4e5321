"""The command line: gathers the sub-commands that each part of the package registers."""

import argparse
import sys
from collections.abc import Sequence

from dyrate.errors import DyrateError


def parser() -> argparse.ArgumentParser:
    """Build the argument parser; imports only the light `commands` modules."""
    from dyrate.evaluation import commands as evaluation
    from dyrate.methods import commands as methods
    from dyrate.report import commands as report
    from dyrate.testbed import commands as testbed

    top = argparse.ArgumentParser(
        prog="dyrate",
        description="Visual-token reduction in vision-language models: methods, benchmarks, tables.",
        epilog="The whole study: `make report`. Each sub-command explains itself: `dyrate evaluate --help`.",
    )
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for part in (methods, evaluation, testbed, report):
        part.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; a user's mistake is one line on stderr and exit status 2."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except DyrateError as error:
        print(f"dyrate: error: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
