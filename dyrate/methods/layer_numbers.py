"""Layers that a paper numbers in a model of 32, in models of other depths."""

from collections.abc import Sequence

from dyrate.errors import DyrateError

_PUBLISHED_DEPTH = 32  # of LLaVA-1.5-7B


def layers_of(method: str, given: Sequence[int], published: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return `given` if there are any, else those that stand as deep in `depth` layers as `published` in 32,
    rounded.

    Raises `DyrateError` where they do not ascend, as in a model too shallow to have that many.
    """
    found = tuple(given) or tuple(round(layer * depth / _PUBLISHED_DEPTH) for layer in published)
    if list(found) != sorted(set(found)):
        where = "layers" if given else f"{_PUBLISHED_DEPTH} layers, {tuple(published)}, in {depth} layers are"
        raise DyrateError(f"{method}: {where} {found}: each must be deeper than the one before")
    return found
