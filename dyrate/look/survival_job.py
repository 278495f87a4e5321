"""What `dyrate survival` is asked: to look again at samples of a study, token by token."""

from typing import Annotated

from pydantic import Field, Strict, model_validator

from dyrate.evaluation.job import Asked
from dyrate.jobs import option
from dyrate.typed import File, Positive


class Survive(Asked):
    """Which of a study's answers to look at again, token by token."""

    command_name = "survival"

    results: Annotated[
        tuple[File, ...],
        Strict(False),
        Field(min_length=1),
        option("what", "JSON", "results of one model under greedy decoding, the unpruned one's first"),
    ]
    shown: Annotated[Positive, option("what", "N")] = 6
    """samples to show: a third at random, a third each where the first method wins and loses most"""
    output: Annotated[File, option("result", "FILE")]
    """the record, a .json"""

    @model_validator(mode="after")
    def _check_results(self) -> "Survive":
        if len(self.results) < 2:
            raise ValueError("--results: a result beside the unpruned model's is wanted")
        return self
