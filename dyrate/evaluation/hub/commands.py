"""`dyrate fetch`. Imports nothing slow until the command runs."""

import argparse

from dyrate.errors import DyrateError
from dyrate.evaluation.hub.job import Fetch
from dyrate.files import writable
from dyrate.jobs import Subparsers, asked

_DESCRIPTION = """\
Bring a model, or the part of a data set that a benchmark is read from, into the hub's cache, and write a
record of commit, files and hashes. Jobs that are given the record (`dyrate evaluate --tasks hub --data
FOLDER`) ask the hub for nothing, so they run with HF_HUB_OFFLINE=1.

Files that are there are not fetched again; a connection that breaks is taken up where it broke; a killed
command loses the file under way. Each file's bytes are compared with what the hub announced.

  HF_HOME          where the cache is (default ~/.cache/huggingface); a shared disk on a cluster
  HF_TOKEN         for gated and private repositories, and for more requests an hour; or `hf auth login`
  HF_ENDPOINT      another hub, such as a mirror
  HF_HUB_OFFLINE   1: ask for nothing; what is in the cache, or an error
  HTTPS_PROXY      a proxy
"""

_EXAMPLES = """\
examples:
  dyrate fetch --benchmark gqa --output data/hub/gqa.json
  dyrate fetch --model llava-hf/llava-1.5-7b-hf --output data/hub/llava.json
  HF_HUB_OFFLINE=1 dyrate evaluate --model llava-hf/llava-1.5-7b-hf --tasks hub --data data/hub \\
      --benchmarks gqa --output results/gqa
  snakemake fetch --cores 1 --configfile config/paper.yaml    # all that a study needs
"""


def register(subparsers: Subparsers) -> None:
    """Add the sub-command."""
    parser = Fetch.add_parser(
        subparsers, "bring a model or a benchmark's data into the hub's cache", _DESCRIPTION, _EXAMPLES
    )
    parser.set_defaults(run=_fetch)


def _fetch(arguments: argparse.Namespace) -> int:
    [job] = asked(Fetch, arguments)
    from dyrate.evaluation.hub import record
    from dyrate.evaluation.hub.fetch import existing, wanted

    there = existing(job)
    try:
        found = wanted(job).fetch() if there is None else there
    except DyrateError as error:
        if job.failures is None:
            raise
        record.write_absence(job.output, str(error))
        with writable(job.failures), job.failures.open("a", encoding="utf-8") as file:
            file.write(" ".join(str(error).split()) + "\n")
        print(f"dyrate: error: {error}")  # as the last words of a job's log
        return 0
    if there is None:
        record.write(job.output, found)
    gigabytes = record.size(found) / 1e9
    print(f"{found['name']} at {found['commit']}: {gigabytes:.2f} GB{' (there already)' if there else ''}")
    return 0
