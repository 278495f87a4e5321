"""Control without the image: what a method scores if no visual token is seen at all."""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from dyrate.needs import Positions
from dyrate.reduction import Needs, PrefillView, ReductionMethod, hyperparameter


@dataclass(frozen=True)
class TextOnly(ReductionMethod):
    """No visual token at all: every one leaves before the first layer.

    By default text is numbered without gaps, which is the text model on the prompt without image tokens.
    """

    name: ClassVar[str] = "text_only"
    title: ClassVar[str] = "Text only"
    examples = ({}, {"positions": "original"})

    positions: str = hyperparameter(
        "RoPE positions of text: `contiguous`, as in a prompt without an image, or `original`",
        default="contiguous",
        choices=("original", "contiguous"),
    )

    def needs(self, depth: int) -> Needs:
        """To be asked at the first layer."""
        return Needs(prefill=(0,), positions=cast(Positions, self.positions))

    def prefill(self, view: PrefillView) -> Tensor:
        """Keep no visual token."""
        return torch.zeros_like(view.present)
