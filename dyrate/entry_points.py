"""What stands before a model's entry points for the length of a `with` block."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any

from dyrate.attention import ATTENTION
from dyrate.errors import DyrateError
from dyrate.families import Family
from dyrate.hooks import stand_in
from dyrate.one_thread import Turn
from dyrate.refusals import check_attention, check_generate

_REFUSED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Entry points whose own threads and caches a block does not reach; they log errors and return nothing."""


def guard_entry_points(
    model: Any, family: Family, turn: Turn, check_made: Callable[[], None], undo: ExitStack
) -> None:
    """Check what calls of the model's methods ask for, and what they made, until `undo` is closed.

    Some arguments of `generate()` leave no trace in the forwards that it makes.
    """
    generate = model.generate

    @wraps(generate)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(generate).bind_partial(*args, **kwargs).arguments
        arguments = {**bound, **bound.get("kwargs", {})}
        check_generate(arguments, model.generation_config)
        with turn.taken("generate"):
            try:
                return generate(*args, **_with_cache(kwargs))
            finally:  # sampling from NaN fails by itself, but says less
                check_made()

    stand_in(model, "generate", checked, undo)
    model.generate.dyrate_guard = True

    set_attention = model.set_attn_implementation

    @wraps(set_attention)
    def keeping_ours(*args: Any, **kwargs: Any) -> Any:
        result = set_attention(*args, **kwargs)
        try:
            check_attention(family)
        except DyrateError:
            for config in family.attention_configs():
                config._attn_implementation = ATTENTION
            raise
        return result

    stand_in(model, "set_attn_implementation", keeping_ours, undo)
    for name in _REFUSED:
        if hasattr(model, name):
            stand_in(model, name, _refusing(name), undo)


def guarded(model: Any) -> bool:
    """Whether the model is inside a block."""
    return hasattr(model.generate, "dyrate_guard")


def _with_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `generate()` under which it feeds one token a step, whatever configs say.

    An empty cache is left out, as a reduced one would take its place.
    """
    kept = {name: value for name, value in arguments.items() if name != "past_key_values"}
    return {**kept, "use_cache": True}


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise DyrateError(
            f"{name}() is not supported under token reduction: continuous batching keeps a cache of its own "
            "across prompts; call generate() with a left-padded batch"
        )

    return refuse
