"""Fields of a method: how they are declared, and which values fit them."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from dyrate.errors import DyrateError

# What a line of a table or a path could not show; and halves of characters, which UTF-8 does not have.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_INTEGERS = range(-(2**63), 2**63)  # what tensors and seeds can be
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def hyperparameter(
    doc: str,
    *,
    default: Any = dataclasses.MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    label: Callable[[Any], str] | None = None,
    replaces: tuple[str, ...] | None = None,
) -> Any:
    """Declare a field of a method with one line of documentation and the values that make sense.

    `label` makes of the value what the method's label shows, always; without it, `name=value` where the value
    is not the default. A field that `replaces` others is None by default, and with another value they mean
    nothing: specs and labels are without whichever is not in force.
    """
    given = {
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "label": label,
        "replaces": replaces,
    }
    metadata = {"doc": doc} | {name: value for name, value in given.items() if value is not None}
    return dataclasses.field(default=default, metadata=metadata)


def fitted(owner: str, field: "dataclasses.Field[Any]", kind: Any, value: Any) -> Any:
    """Return a value in its field's type: lists as tuples, since JSON has none, and whole numbers as floats.

    Raises `DyrateError` for an unfit one.
    """
    try:
        found = _as_kind(kind, value)
        _check_bounds(field.metadata, found)
        _check_plain(found)
    except _UnfitError as unfit:
        raise DyrateError(f"{owner}({field.name}={value!r:.200}): expected {unfit}") from None
    return found


class _UnfitError(Exception):
    """Says what was expected."""


def _as_kind(kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind, config=_STRICT).validate_python(_as_tuples(value))
    except (ValidationError, PydanticUserError):  # the latter for a type that takes no such config
        name = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
        raise _UnfitError(f"a value of type {name.removeprefix('typing.')}") from None


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _check_bounds(bounds: Mapping[str, Any], value: Any) -> None:
    if "choices" in bounds and value not in bounds["choices"]:
        raise _UnfitError(f"one of {', '.join(map(repr, bounds['choices']))}")
    low, high = bounds.get("minimum", -math.inf), bounds.get("maximum", math.inf)
    numbers = value if isinstance(value, tuple) else () if value is None else (value,)
    # So that NaN is none of them.
    if not all(low <= number <= high for number in numbers if low > -math.inf or high < math.inf):
        raise _UnfitError(
            f"at least {low}"
            if high == math.inf
            else f"at most {high}"
            if low == -math.inf
            else f"from {low} to {high}"
        )


def _check_plain(value: Any) -> None:
    """Refuse what no config can say, or not in a line."""
    if isinstance(value, tuple):
        for entry in value:
            _check_plain(entry)
    elif isinstance(value, str):
        if _CONTROL.search(value):
            raise _UnfitError("text without line breaks or other control characters")
    elif isinstance(value, int):
        if value not in _INTEGERS:
            raise _UnfitError("a whole number of 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _UnfitError("a finite number")
    elif value is not None:
        raise _UnfitError("text, a number, true, false, null, or a list of these, as a config can say it")
