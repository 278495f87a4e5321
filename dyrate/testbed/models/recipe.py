"""What to train and on what: the recipes of the testbed's models."""

from dataclasses import dataclass

DECAY_SHARE = 0.3  # of the time, where time decides


@dataclass(frozen=True)
class ModelRecipe:
    """Everything that determines the trained weights, apart from the arithmetic of the machine."""

    model: str
    seed: int = 0
    steps: int = 20_000  # more than nine minutes afford: the clock decides
    decay_steps: int = 6_000
    batch_size: int = 384
    pack_length: int = 512
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 300
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    precision: str = "bfloat16"  # of the arithmetic; weights and optimiser are float32
    tokenizer_examples: int = 2000


RECIPES = {
    "testbed-tiny": ModelRecipe(
        "testbed-tiny",
        steps=20,
        decay_steps=6,
        batch_size=8,
        warmup_steps=2,
        precision="float32",
        tokenizer_examples=100,
    ),
    "testbed-s": ModelRecipe("testbed-s"),
    "testbed-m": ModelRecipe("testbed-m"),
}


@dataclass(frozen=True)
class Machine:
    """Where and how long to train: nothing here but `minutes` changes which weights come out."""

    device: str = "cpu"
    workers: int = 0
    compile: bool = False
    minutes: float | None = None
    report_seconds: float = 60.0  # between checkpoints, each with a held-out score
