"""What `dyrate bench` is asked: which contenders generate how much, of what, on which machine."""

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from dyrate.evaluation.options import UNPRUNED, Data, Device, Dtype, Spec, Tasks, Threads
from dyrate.jobs import Job, option
from dyrate.typed import File, Natural, Positive

PROMPT = 640
"""LLaVA-1.5's 576 visual tokens and 64 others."""
Specs = Annotated[tuple[Spec, ...], Strict(False)]
Numbers = Annotated[tuple[Positive, ...], Strict(False), Field(min_length=1)]
Checkpoint = Annotated[str | None, option("checkpoint folder or hub id", "what", "DIR_OR_ID")]
Shape = Annotated[str | None, option("llava-1.5-7b or llava-1.5-13b, with random weights", "what", "NAME")]
Document = Annotated[File | None, option("write the JSON document here, too", "result", "FILE")]
_ONE_ROW, _SOME_TOKENS = (1,), (32,)


class Bench(Job):
    """What to measure; `dyrate bench`'s options, in the order of its commands."""

    command_name = "bench"
    one_of = ("model", "shape")

    peers: Annotated[
        tuple[Literal["generate", "static"], ...],
        Strict(False),
        option(
            "generate: transformers with its dynamic cache; static: with its static cache, compiled on a GPU",
            "what",
            "PEER",
        ),
    ] = ("generate",)
    methods: Annotated[
        Specs,
        option("names, or JSON objects as in --method of `dyrate evaluate`", "what", "METHOD"),
    ] = (UNPRUNED,)
    model: Checkpoint = None
    shape: Shape = None
    engine: Annotated[
        tuple[Literal["transformers", "graph"], ...],
        Strict(False),
        Field(min_length=1),
        option(
            "what runs the methods: transformers under this package's hooks, this package's engine, or both",
            "how",
        ),
    ] = ("transformers",)
    benchmark: Annotated[
        str | None,
        option(
            "prompts of this benchmark, another one in each round, instead of random words and images; the "
            "model must be a real one, and --prompt, their length, be left out",
            "data",
            "NAME",
        ),
    ] = None
    tasks: Tasks = "testbed"
    data: Data = None
    new_tokens: Annotated[Numbers, option("tokens to make", "what", "N")] = _SOME_TOKENS
    rounds: Annotated[Positive, option("that are measured", "how", "N")] = 5
    device: Device = "auto"
    dtype: Dtype = "float32"
    seed: Annotated[int, option("of weights, words and images", "how", "S")] = 0
    output: Document = None
    batch: Annotated[Numbers, option("rows at once", "what", "N", printed="changed")] = _ONE_ROW
    prompt: Annotated[
        Numbers | None,
        option(f"tokens of a prompt, the visual ones among them (default: {PROMPT})", "what", "N"),
    ] = None
    warmups: Annotated[Natural, option("rounds before them", "how", "N", printed="changed")] = 1
    replay: Annotated[
        File | None,
        option(
            "a predictor's folder, whose mean rates are replayed in two more rows: select and evict",
            "what",
            "DIR",
        ),
    ] = None
    overhead: Annotated[
        bool,
        option(
            "more rows: DyRate with predictors that drop nothing; beside the unpruned model they show what "
            "statistics, prediction and ranking cost by themselves",
            "what",
        ),
    ] = False
    profile: Annotated[
        bool,
        option(
            "after the measuring, what a decode step of each row consists of: kernels on a GPU, operations "
            "on a CPU, by torch's profiler",
            "result",
        ),
    ] = False
    threads: Threads = None

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
        if self.benchmark is not None and self.model is None:
            raise ValueError(
                f"--benchmark {self.benchmark}: a model of random weights reads no words; give --model"
            )
        if not self.methods and not self.peers:
            raise ValueError("--methods and --peers are both empty: nothing to measure")
        return self
