"""What to train and on what: the recipes of the testbed's models."""

from dataclasses import dataclass
from typing import NamedTuple

from dyrate.errors import DyrateError

DECAY_SHARE = 0.3  # of the time, where time decides


class Stage(NamedTuple):
    """What one step trains."""

    contrast: float  # weight of the contrastive loss
    eyes: float  # learning rate of CLIP's towers, relative to the plan's
    rest: float  # learning rate of the projector and the language model likewise; 0: no answers are asked for


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
    contrast_weight: float = 0.1  # of the contrastive loss between pictures and captions, beside the answers'
    contrast_steps: int = 0  # first steps, which train the eyes alone, by that loss alone
    tower_rate: float = 1.0  # the eyes' learning rate after those, relative to the rest; 0: frozen
    # In half of the examples neighbouring visual tokens are less than one position apart, down to this, as
    # after pruning with new positions: a model that has seen images in one place alone takes no other.
    least_spacing: float = 0.1
    precision: str = "bfloat16"  # of the arithmetic; weights and optimiser are float32
    tokenizer_examples: int = 2000

    def __post_init__(self) -> None:
        """Refuse what trains nothing, or is no distance."""
        checks = {
            "contrast_weight": (self.contrast_weight >= 0, "at least 0"),
            "contrast_steps": (
                0 <= self.contrast_steps < self.steps,
                f"from 0 to {self.steps - 1}, below steps",
            ),
            "tower_rate": (0 <= self.tower_rate <= 1, "from 0 to 1"),
            "least_spacing": (0 < self.least_spacing <= 1, "above 0, at most 1"),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise DyrateError(f"{name}: {getattr(self, name)} is not {expected}")

    def stage(self, step: int) -> Stage:
        """Return what a step trains, counted from 0."""
        if step < self.contrast_steps:
            return Stage(contrast=1.0, eyes=1.0, rest=0.0)
        since = step - self.contrast_steps
        warm = min((since + 1) / self.warmup_steps, 1.0) if self.contrast_steps else 1.0
        return Stage(self.contrast_weight if self.tower_rate else 0.0, self.tower_rate, warm)


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
    "testbed-q-tiny": ModelRecipe(
        "testbed-q-tiny",
        steps=20,
        decay_steps=6,
        batch_size=9,  # each size once
        pack_length=576,
        warmup_steps=2,
        least_spacing=1.0,
        precision="float32",
        tokenizer_examples=100,
    ),
    "testbed-s": ModelRecipe("testbed-s"),
    "testbed-m": ModelRecipe("testbed-m"),
    "testbed-q": ModelRecipe("testbed-q", pack_length=576, least_spacing=1.0),  # for larger images
}


@dataclass(frozen=True)
class Machine:
    """Where and how long to train: nothing here but `minutes` changes which weights come out."""

    device: str = "cpu"
    workers: int = 0
    compile: bool = False
    minutes: float | None = None
    report_seconds: float = 60.0  # between checkpoints, each with a held-out score
