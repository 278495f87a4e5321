"""Control without the image: what a method scores if no visual token is seen at all."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dyrate.reduction import Positions, ReductionMethod, View, hyperparameter


@dataclass(frozen=True)
class TextOnly(ReductionMethod):
    """No visual token at all: every one leaves before the first layer.

    By default text is numbered without gaps, which is the text model on the prompt without image tokens.
    """

    name: ClassVar[str] = "text_only"
    title: ClassVar[str] = "Text only"

    positions: str = hyperparameter(
        "RoPE positions of text: `contiguous`, as in a prompt without an image, or `original`",
        default="contiguous",
        choices=("original", "contiguous"),
    )

    @property
    def position_policy(self) -> Positions:
        """The field `positions`."""
        return "contiguous" if self.positions == "contiguous" else "original"

    def prune_layers(self, num_layers: int) -> tuple[int, ...]:
        """The first layer."""
        return (0,)

    def prefill(self, view: View) -> Tensor:
        """Keep no visual token."""
        return torch.zeros_like(view.present)
