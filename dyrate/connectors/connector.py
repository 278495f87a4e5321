"""What a connector is: a module from the states of a vision tower to the states of visual tokens."""

import inspect
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dyrate.errors import DyrateError


class Sizes(NamedTuple):
    """Of the two models that a connector joins."""

    width: int
    """Of the vision tower's states."""
    hidden: int
    """Of the language model's states."""
    side: int
    """Patches along an image's edge."""


class Question(NamedTuple):
    """What is asked about each image, padded on the right."""

    ids: Tensor
    """LongTensor [images, n]."""
    mask: Tensor
    """BoolTensor [images, n]: False in the padding."""

    def to(self, device: torch.device) -> "Question":
        """Return it on another device."""
        return Question(self.ids.to(device), self.mask.to(device))


class Connector(nn.Module):
    """The base of all; a subclass has a `name`, and keyword arguments with defaults as its fields."""

    name: ClassVar[str]
    """As a model's config calls it; empty on a base class."""
    reads_questions: ClassVar[bool] = False
    """Whether it makes of one image other tokens for another question."""
    keeps_end: ClassVar[bool] = False
    """Whether of a question longer than `words` it reads the end, not the beginning."""
    class_token: ClassVar[bool] = False
    """Whether it takes the tower's class token too, before the patches."""

    layers: tuple[int, ...] = (-2,)
    """Which of the tower's hidden states it takes, as transformers counts them: 0 is what the first layer is
    given, -2 what the last one is given. Several are side by side in the last dimension.
    """
    tokens: int
    """Visual tokens that it makes of an image."""
    appended: int = 0
    """Compression tokens behind each image, of id `token` and embedding `embedding`."""
    words: int = 0
    """Tokens of a question that it reads at most."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, states: Tensor, question: Question | None = None) -> Tensor:
        """Return visual tokens, FloatTensor [images, tokens, hidden].

        Args:
            states: the tower's, FloatTensor [images, side^2 patches in raster order, width of all `layers`],
                with a class token before the patches if `class_token`.
            question: what is asked about each image, if `reads_questions`.
        """
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the visual tokens, where each stands for its own part of the image."""
        side = round(self.tokens**0.5)
        return (side, side) if side**2 == self.tokens else None

    def patches(self, states: Tensor) -> Tensor:
        """Return the states as they lie in the image, [images, width, side, side]; without a class token."""
        side = self.sizes.side
        return states[:, -(side**2) :].transpose(1, 2).reshape(len(states), -1, side, side)

    def macs(self, words: int = 0) -> int:
        """Return the multiply-accumulates for one image, and a question of `words` tokens, by PyTorch's own
        counter.
        """
        weight = next(self.parameters())
        patches, width = self.sizes.side**2 + self.class_token, self.sizes.width * len(self.layers)
        states = weight.new_zeros(1, patches, width)
        ids = torch.zeros(1, words, dtype=torch.long, device=weight.device)
        asked = Question(ids, torch.ones_like(ids, dtype=torch.bool)) if self.reads_questions else None
        # The counter knows the products that attention is made of, not every kernel that makes them at once;
        # and it watches modules through their gradients.
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            self(states, asked)
        return int(counter.get_total_flops()) // 2

    @classmethod
    def field_names(cls) -> list[str]:
        """Return the names of its keyword arguments, and of those that it hands on to its base classes."""
        inits = [vars(one)["__init__"] for one in cls.__mro__[:-1] if "__init__" in vars(one)]
        given = [one for init in inits for one in inspect.signature(init).parameters.values()]
        return list(dict.fromkeys(one.name for one in given if one.kind is one.KEYWORD_ONLY))

    @property
    def fields(self) -> dict[str, Any]:
        """The keyword arguments that it was built with, defaults among them."""
        return {name: getattr(self, name) for name in self.field_names()}


def raster(grid: Tensor) -> Tensor:
    """Return states [images, width, rows, columns] as tokens in raster order, [images, tokens, width]."""
    return grid.flatten(2).transpose(1, 2)


def pooled(patches: Tensor, kernel: int) -> Tensor:
    """Return the mean of every kernel x kernel square of [images, width, side, side]."""
    return functional.avg_pool2d(patches, kernel, kernel)


def divides(part: int, whole: int, what: str) -> int:
    """Return the quotient; a `DyrateError` that says `what` does not divide the image's edge."""
    if part < 1 or whole % part:
        fits = ", ".join(str(number) for number in range(1, whole + 1) if whole % number == 0)
        raise DyrateError(f"{what} is {part}, which does not divide an edge of {whole} patches: {fits}")
    return whole // part


def two_layers(width: int, hidden: int) -> nn.Sequential:
    """Return LLaVA-1.5's projector, `mlp2x_gelu`."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
