"""What to train: the published connectors at a testbed model's size, all by one recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dyrate.connectors.connector import Connector, Sizes
from dyrate.connectors.registry import build
from dyrate.errors import DyrateError


@dataclass(frozen=True)
class ConnectorRecipe:
    """Everything that determines the trained weights, apart from the arithmetic of the machine.

    In the first `alone` steps the connector learns by itself, as in the official first stages; then the
    adapter learns with it. Both take the same learning rate: constant after the warm-up, linear to zero in
    the last half.
    """

    connector: str
    fields: dict[str, Any] = field(default_factory=dict)
    steps: int = 1000
    alone: int = 250
    batch_size: int = 192
    pack_length: int = 512
    peak_learning_rate: float = 1e-3
    warmup_steps: int = 100
    clip_norm: float = 1.0
    rank: int = 3
    """Of the adapter's matrices, beside every linear layer of the language model; scaled by 2."""
    seed: int = 0
    precision: str = "bfloat16"

    def __post_init__(self) -> None:
        if not 0 < self.alone < self.steps or self.warmup_steps >= self.steps:
            raise DyrateError(
                f"steps: {self.steps} should be more than alone ({self.alone}, at least 1) and warmup_steps "
                f"({self.warmup_steps})"
            )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warm = (step + 1) / self.warmup_steps
        left = 2 * (self.steps - step) / self.steps
        return self.peak_learning_rate * min(warm, left, 1.0)

    def build(self, sizes: Sizes) -> Connector:
        """Return the new connector."""
        return build(self.connector, sizes, self.fields)


_BERT = {"queries": 36, "width": 48, "depth": 4, "heads": 4, "feed_forward": 144}
_WORDS = {"vocabulary": 1023}

RECIPES = {
    "projector": ConnectorRecipe("projector"),
    "qformer": ConnectorRecipe("qformer", _BERT),
    "instruct_qformer": ConnectorRecipe("instruct_qformer", {**_BERT, **_WORDS}),
    "resampler": ConnectorRecipe("resampler", {"edge": 6, "heads": 6}),
    "context": ConnectorRecipe("context", {**_BERT, **_WORDS, "edge": 6}),
    "token_packer": ConnectorRecipe("token_packer", {"scale": 2, "layers": (2, 3, 4, -2), "heads": 5}),
    "nested_pool": ConnectorRecipe("nested_pool", {"kernels": (12, 4, 3, 2, 1)}),
    "ldp": ConnectorRecipe("ldp"),
    "compression_tokens": ConnectorRecipe("compression_tokens", {"token": 1023}),
}
"""By name: of a testbed model's 144 patches a fixed connector makes a quarter, as Qwen-VL, TokenPacker and
MobileVLM do of theirs.
"""


def recipes_named(names: Sequence[str] | None) -> dict[str, ConnectorRecipe]:
    """Return the recipes of these names, None for all; a `DyrateError` lists the known ones."""
    for name in names or ():
        if name not in RECIPES:
            raise DyrateError(f"connector {name!r} is unknown; known: {', '.join(RECIPES)}")
    return {name: recipe for name, recipe in RECIPES.items() if names is None or name in names}
