"""What `dyrate fetch` is asked: one model, or what one benchmark needs of its data set."""

from typing import Annotated

from pydantic import model_validator

from dyrate.evaluation.benchmarks import select
from dyrate.evaluation.harness_adapters import Commit
from dyrate.jobs import Job, option
from dyrate.typed import File


class Fetch(Job):
    """What to bring into the hub's cache, and where its record goes."""

    command_name = "fetch"
    one_of = ("benchmark", "model")

    benchmark: Annotated[str | None, option("what", "NAME")] = None
    """the splits of the data set that this benchmark is read from"""
    model: Annotated[str | None, option("what", "ID")] = None
    """a checkpoint's weights, configuration, tokenizer and processor"""
    revision: Annotated[Commit | None, option("data", "COMMIT")] = None
    """of either, on the hub (default: today's main)"""
    whole: Annotated[bool, option("data")] = False
    """all files of the model but pickled weights, as one of lmms-eval's adapters may ask for them"""
    output: Annotated[File, option("result", "FILE")]
    """the record, a .json; where it is there and all its files are, nothing is asked of the hub"""

    failures: Annotated[File | None, option("result", "FILE")] = None
    """where the benchmark's data does not come, add a line to this file, let the record say why, and exit
    with 0: what needs the data fails by itself, and nothing else"""

    @model_validator(mode="after")
    def _check_benchmark(self) -> "Fetch":
        if self.benchmark is not None:
            select([self.benchmark])
        elif self.failures is not None:
            raise ValueError(
                "--failures: is for a benchmark's data; without its model nothing can be answered"
            )
        return self
