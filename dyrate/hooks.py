"""Functions that stand in a model for a while: put there and taken away, and kept out of compiled graphs."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from torch.compiler import disable

Function = TypeVar("Function", bound=Callable[..., object])


def eager(function: Function) -> Function:
    """Let a hook run as Python also where its caller has been compiled: what it does depends on the prompt,
    and torch.compile does not watch it.
    """
    return disable(function)  # type: ignore[no-any-return, no-untyped-call]


def stand_in(owner: Any, name: str, function: Callable[..., Any], undo: ExitStack) -> None:
    """Put `function` in the place of the owner's own or its class's, until `undo` is closed."""
    if name in vars(owner):
        undo.callback(setattr, owner, name, vars(owner)[name])
    else:
        undo.callback(delattr, owner, name)
    setattr(owner, name, function)
