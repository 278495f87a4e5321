"""What `dyrate evaluate` is asked: a model, a method and a decoding strategy on some benchmarks."""

from pathlib import Path
from typing import Annotated

from pydantic import model_validator

from dyrate.evaluation.decoding import decoding_slug
from dyrate.evaluation.options import (
    UNPRUNED,
    BatchSize,
    Benchmarks,
    Data,
    Device,
    Dtype,
    Engine,
    Metrics,
    Model,
    ModelName,
    Samples,
    Seed,
    Spec,
    StudyName,
    Tasks,
    Threads,
)
from dyrate.evaluation.results import ResultFiles
from dyrate.jobs import Job, option
from dyrate.typed import File

_GREEDY = {"name": "greedy"}


class _Named(Job):
    """Which benchmarks, of which model: what every printed command begins with."""

    benchmarks: Benchmarks
    study: StudyName = "adhoc"
    model: Model
    model_name: ModelName = None

    @property
    def name(self) -> str:
        """The model's name in the result."""
        return self.model_name or Path(self.model).name

    def arguments(self) -> list[str]:
        """The options that ask for this job, the model's name among them."""
        named = self if self.model_name else self.model_copy(update={"model_name": self.name})
        return super(_Named, named).arguments()


class Asked(_Named):
    """A job that asks a model the questions of benchmarks."""

    tasks: Tasks = "testbed"
    data: Data = None
    samples: Samples = None
    batch_size: BatchSize = 16
    device: Device = "auto"
    dtype: Dtype = "float32"
    engine: Engine = "auto"
    threads: Threads = None
    seed: Seed = 0


class _Treated(_Named):
    """How the model is made to answer."""

    method: Annotated[Spec, option("a name, or JSON with its hyperparameters", "what", "SPEC")] = UNPRUNED
    decoding: Annotated[Spec, option("greedy, beam-2, beam-5, top_p, or JSON", "what", "SPEC")] = _GREEDY


class Evaluation(Asked, _Treated):
    """What to evaluate, and into which folder.

    Results hold the command that asks for them: the order of the classes above is that of its options.
    """

    command_name = "evaluate"

    baseline: Annotated[File | None, option("result to take paired differences from", "result", "JSON")] = (
        None
    )
    metrics: Metrics = "all"
    output: Annotated[File, option("folder of the files", "result", "DIR")]

    @model_validator(mode="after")
    def _seed_sampling(self) -> "Evaluation":
        if self.decoding["name"] == "top_p":
            self.decoding.setdefault("seed", self.seed)
        return self

    @property
    def files(self) -> ResultFiles:
        """Where the result goes."""
        return ResultFiles(self.output, decoding_slug(self.decoding))
