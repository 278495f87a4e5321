"""What stands before a model's entry points for the length of a `with` block."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from typing import Any, NoReturn

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
                kwargs.pop("past_key_values", None)  # an empty cache, whose place a reduced one takes
                # One token a step, whatever configs say.
                return generate(*args, **{**kwargs, "use_cache": True})
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
            stand_in(model, name, partial(_refuse, name), undo)


def guarded(model: Any) -> bool:
    """Whether the model is inside a block."""
    return hasattr(model.generate, "dyrate_guard")


def _refuse(name: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise DyrateError(
        f"{name}() is not supported under token reduction: continuous batching keeps a cache of its own "
        "across prompts; call generate() with a left-padded batch"
    )
