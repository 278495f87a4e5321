"""`dyrate preflight`. Imports nothing slow until the command runs."""

import argparse
import json

from dyrate.jobs import Subparsers

_DESCRIPTION = """\
Look at all that a study needs before it starts: packages, Java, GPU memory for each model and batch, training
questions, and of the hub each model and data set: there, readable with your token, of the commit that is
asked for, its splits, and how many bytes are to come. A line each, with what to do about it. Then how many
GPU hours each evaluation takes, by times measured on one kind of GPU; without training, traces and timing.

Without a network it says what is in the cache and what is missing. The exit status is 1 if anything would
fail.
"""

_EXAMPLES = """\
examples:
  dyrate preflight --configfile config/paper.yaml
  dyrate preflight --configfile config/paper.yaml --gpu-memory 80 --speed 0.4    # on a login node, for A100s
"""


def register(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "preflight",
        help="what would fail in a study, and how long it takes",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--configfile", nargs="+", required=True, metavar="FILE", help="as Snakemake's: later ones win"
    )
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="of the GPU that the jobs get")
    parser.add_argument("--elsewhere", action="store_true", help="the jobs run on other machines' GPUs")
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of that GPU, as a share of the measured one's (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_preflight)


def _preflight(arguments: argparse.Namespace) -> int:
    from dyrate.evaluation.commands import quiet_libraries
    from dyrate.preflight.estimate import Times, estimates
    from dyrate.preflight.estimate import table as hours
    from dyrate.preflight.findings import table
    from dyrate.preflight.preflight import findings, read_study

    quiet_libraries()
    study = read_study(arguments.configfile)
    found = findings(study, arguments.gpu_memory, arguments.elsewhere)
    times = Times.recorded()
    taken = [*estimates(study, times, arguments.speed)]
    failing = sum(one.state == "fails" for one in found)
    if arguments.json:
        evaluations = [
            {"evaluation": one.job.key, "rows": one.rows, "hours": one.hours, "measured": one.measured}
            for one in taken
        ]
        document = {
            "findings": [one.to_json() for one in found],
            "device": times.device,
            "evaluations": evaluations,
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(table(found)))
        print(f"\nHours on {times.device}, at {arguments.speed:g} of its speed:\n")
        print("\n".join(hours(taken)))
        print(f"\n{failing} of these would fail." if failing else "\nNothing here would fail.")
    return 1 if failing else 0
