"""What `dyrate training-questions` is asked: how many, of which data set, without the images of what."""

from typing import Annotated

from pydantic import AfterValidator, Field

from dyrate.evaluation.benchmarks import BENCHMARKS
from dyrate.evaluation.job import Data, Seed, Tasks, known
from dyrate.jobs import Job, option
from dyrate.typed import File, Names, Text

CAULDRON = "HuggingFaceM4/the_cauldron"


class TrainingQuestions(Job):
    """What to make; `dyrate training-questions`'s options."""

    command_name = "training-questions"

    source: Annotated[Text, option("data", "ID_OR_DIR")] = CAULDRON
    """data set on the hub, or a folder, with the subsets and columns of this one"""
    revision: Annotated[Text | None, option("data", "COMMIT")] = None
    """of it (default: the newest, which the record names)"""
    rows: Annotated[int, Field(ge=2), option("what", "N")] = 4096
    """questions and captions together"""
    seed: Seed = 0
    benchmarks: Annotated[Names, AfterValidator(known), option("data", "NAME")] = tuple(BENCHMARKS)
    """no image of these may be in it"""
    tasks: Tasks = "hub"
    data: Data = None
    output: Annotated[File, option("result", "FILE")]
    """.jsonl file; images go beside it into a folder, .made, and the record into .made.json"""
