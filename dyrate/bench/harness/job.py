"""What `dyrate bench-harness` is asked: how many captions to make, by which methods, on which machine."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from dyrate.bench.job import Checkpoint, Document, Shape, Specs
from dyrate.evaluation.options import UNPRUNED, Device, Dtype
from dyrate.jobs import Job, option
from dyrate.typed import File, Positive


class HarnessBench(Job):
    """What to measure; `dyrate bench-harness`'s options."""

    command_name = "bench-harness"
    one_of = ("model", "shape")

    model: Checkpoint = None
    shape: Shape = None
    processor: Annotated[
        File,
        option("whose tokenizer and image processor to use, at the model's image size", "what", "DIR"),
    ] = Path("models/testbed-s")
    methods: Annotated[Specs, Field(min_length=1), option("names or JSON objects", "what", "METHOD")] = (
        UNPRUNED,
    )
    samples: Annotated[Positive, option("captions to make", "what", "N")] = 256
    peer_samples: Annotated[Positive, option("captions that llava_hf makes", "what", "N")] = 16
    batch_size: Annotated[Positive, option("of this package", "how", "N")] = 128
    new_tokens: Annotated[Positive, option("at most, per caption", "what", "N")] = 64
    rounds: Annotated[Positive, option("after the warm-up", "how", "N")] = 2
    device: Device = "auto"
    dtype: Dtype = "float32"
    output: Document = None

    @model_validator(mode="after")
    def _check_samples(self) -> "HarnessBench":
        if self.peer_samples > self.samples:
            raise ValueError(
                f"--peer-samples {self.peer_samples}: expected at most --samples, {self.samples}"
            )
        return self
