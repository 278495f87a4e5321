"""What `dyrate bench` is asked: which contenders generate how much, of what, on which machine."""

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from dyrate.evaluation.job import (
    UNPRUNED,
    ChatTemplate,
    Data,
    Device,
    Dtype,
    Pixels,
    Revision,
    Spec,
    Tasks,
    Threads,
)
from dyrate.jobs import Job, option
from dyrate.typed import File, Natural, Positive

WORDS = 64
"""Tokens of a prompt beside the visual ones."""
PROMPT = 576 + WORDS
"""LLaVA-1.5's."""
Specs = Annotated[tuple[Spec, ...], Strict(False)]
Numbers = Annotated[tuple[Positive, ...], Strict(False), Field(min_length=1)]
Checkpoint = Annotated[str | None, option("what", "DIR_OR_ID", "checkpoint folder or hub id")]
Shape = Annotated[str | None, option("what", "NAME", "llava-1.5-7b or llava-1.5-13b, with random weights")]
Document = Annotated[File | None, option("result", "FILE", "write the JSON document here, too")]
_Peers = Annotated[tuple[Literal["generate", "static"], ...], Strict(False)]
_Engines = Annotated[tuple[Literal["transformers", "graph"], ...], Strict(False), Field(min_length=1)]


class Bench(Job):
    """What to measure; `dyrate bench`'s options, in the order of its commands."""

    command_name = "bench"
    one_of = ("model", "shape")

    peers: Annotated[_Peers, option("what", "PEER")] = ("generate",)
    """generate: transformers with its dynamic cache; static: with its static cache, compiled on a GPU"""
    methods: Annotated[Specs, option("what", "METHOD")] = (UNPRUNED,)
    """names, or JSON objects as in --method of `dyrate evaluate`"""
    model: Checkpoint = None
    shape: Annotated[str | None, option("what", "NAME")] = None
    """a published model's sizes, with random weights, such as llava-1.5-7b or qwen3-vl-8b; what is no name
    of one lists them all"""
    engine: Annotated[_Engines, option("how")] = ("transformers",)
    """what runs the methods: transformers under this package's hooks, this package's engine, or both"""
    benchmark: Annotated[str | None, option("data", "NAME")] = None
    """prompts of this benchmark, another one in each round, instead of random words and images; the model
    must be a real one, and --prompt, their length, be left out"""
    tasks: Tasks = "testbed"
    data: Data = None
    new_tokens: Annotated[Numbers, option("what", "N")] = (32,)
    """tokens to make"""
    rounds: Annotated[Positive, option("how", "N")] = 5
    """that are measured"""
    device: Device = "auto"
    dtype: Dtype = "auto"
    seed: Annotated[int, option("how", "S")] = 0
    """of weights, words and images"""
    output: Document = None
    batch: Annotated[Numbers, option("what", "N", printed="changed")] = (1,)
    """rows at once"""
    prompt: Annotated[Numbers | None, option("what", "N")] = None
    """tokens of a prompt, the visual ones among them (default: 64 beside these, for LLaVA-1.5 640)"""
    visual: Annotated[Positive | None, option("what", "N")] = None
    """visual tokens of a prompt, where the images of a --shape may have any number (default: 1024); more
    than 4096 of a Qwen's are of several images"""
    warmups: Annotated[Natural, option("how", "N", printed="changed")] = 1
    """rounds before them"""
    replay: Annotated[File | None, option("what", "DIR")] = None
    """a predictor's folder, whose mean rates are replayed in two more rows: select and evict"""
    overhead: Annotated[bool, option("what")] = False
    """more rows: DyRate with predictors that drop nothing; beside the unpruned model they show what
    statistics, prediction and ranking cost by themselves"""
    choosing: Annotated[bool, option("what")] = False
    """more rows: for each method that drops tokens at prefill one that drops as many without choosing; the
    difference is what its choice takes"""
    profile: Annotated[bool, option("result")] = False
    """after the measuring, what the prompt's pass and a decode step of each row consist of: kernels on a GPU,
    operations on a CPU, by torch's profiler"""
    threads: Threads = None
    revision: Revision = None
    chat_template: ChatTemplate = None
    pixels: Pixels = None

    @model_validator(mode="after")
    def _check_prompts(self) -> "Bench":
        if self.benchmark is None and self.data is not None:
            raise ValueError(
                f"--data {self.data}: says where the prompts of --benchmark are, which is missing"
            )
        if self.benchmark is not None and self.prompt is not None:
            raise ValueError(
                f"--prompt {self.prompt[0]}: the prompts of --benchmark {self.benchmark} have lengths of "
                "their own; leave one of the two out"
            )
        if self.visual is not None and self.shape is None:
            raise ValueError(f"--visual {self.visual}: is of the random images of a --shape")
        if self.benchmark is not None and self.model is None:
            raise ValueError(
                f"--benchmark {self.benchmark}: a model of random weights reads no words; give --model"
            )
        if not self.methods and not self.peers:
            raise ValueError("--methods and --peers are both empty: nothing to measure")
        return self
