"""What `dyrate bench-harness` is asked: how many captions to make, by which methods, on which machine."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dyrate.bench.job import Checkpoint, Document, Shape, Specs
from dyrate.evaluation.job import UNPRUNED, Device, Dtype
from dyrate.jobs import Job, option
from dyrate.typed import File, Positive


class HarnessBench(Job):
    """What to measure; `dyrate bench-harness`'s options."""

    command_name = "bench-harness"
    one_of = ("model", "shape")

    model: Checkpoint = None
    shape: Shape = None
    processor: Annotated[File, option("what", "DIR")] = Path("models/testbed-s")
    """whose tokenizer and image processor to use, at the model's image size"""
    methods: Annotated[Specs, Field(min_length=1), option("what", "METHOD")] = (UNPRUNED,)
    """names or JSON objects"""
    task: Annotated[Literal["nocaps", "gqa"], option("what")] = "nocaps"
    """captions, or short answers"""
    samples: Annotated[Positive, option("what", "N")] = 256
    """questions to answer"""
    peer_samples: Annotated[Positive, option("what", "N")] = 16
    """questions that llava_hf answers"""
    batch_size: Annotated[Positive, option("how", "N")] = 128
    """of this package"""
    new_tokens: Annotated[Positive, option("what", "N")] = 64
    """at most, per answer"""
    rounds: Annotated[Positive, option("how", "N")] = 2
    """after the warm-up"""
    device: Device = "auto"
    dtype: Dtype = "auto"
    output: Document = None

    @model_validator(mode="after")
    def _check_samples(self) -> "HarnessBench":
        if self.peer_samples > self.samples:
            raise ValueError(
                f"--peer-samples {self.peer_samples}: expected at most --samples, {self.samples}"
            )
        return self
