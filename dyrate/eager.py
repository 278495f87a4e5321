"""Hooks stay out of graphs: what they do depends on the prompt, and torch.compile does not watch them."""

from collections.abc import Callable
from typing import TypeVar

from torch.compiler import disable

Function = TypeVar("Function", bound=Callable[..., object])


def eager(function: Function) -> Function:
    """Let `function` run as Python also where its caller has been compiled."""
    return disable(function)  # type: ignore[no-any-return, no-untyped-call]
