"""Specs of methods and decoding strategies as people write them: a name, JSON text, or a mapping."""

from collections.abc import Mapping
from typing import Any

from dyrate.errors import DyrateError
from dyrate.files import parse_json


def as_spec(value: str | Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the mapping with `name`; `what` says in errors where the value came from."""
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str):  # lmms-eval makes numbers of what looks like some
        raise DyrateError(f"{what}: {value!r:.80} is neither a name nor a mapping with a name")
    if not value.lstrip().startswith("{"):
        return {"name": value}
    spec: dict[str, Any] = parse_json(value, f"{what}: {value!r:.200}")
    return spec
