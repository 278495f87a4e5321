"""What `dyrate trace` is asked: to see where a model looks while it answers the questions of benchmarks."""

from typing import Annotated

from dyrate.evaluation.job import Asked, Samples
from dyrate.jobs import option
from dyrate.typed import File


class Trace(Asked):
    """What to trace, and into which file."""

    command_name = "trace"

    samples: Samples = 50
    output: Annotated[File, option("result", "FILE")]
    """the summary, a .json"""
