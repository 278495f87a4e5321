"""Specs of methods and decoding strategies as people write them: a name, JSON text, or a mapping."""

import json
from collections.abc import Mapping
from typing import Any

from dyrate.errors import DyrateError


def as_spec(value: str | Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the mapping with `name`; `what` says in errors where the value came from."""
    if isinstance(value, Mapping):
        return dict(value)
    if not value.lstrip().startswith("{"):
        return {"name": value}
    try:
        spec: dict[str, Any] = json.loads(value)
    except json.JSONDecodeError as error:
        raise DyrateError(f"{what}: {value!r} is not JSON: {error}") from None
    return spec
