"""The shape of a study's config: which keys there are, of which types, with which defaults."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from dyrate.errors import DyrateError

SCHEMA_FILE = Path(__file__).with_name("study.schema.yaml")


class StudyError(DyrateError):
    """A study's config names something that does not exist, or twice, or in the wrong type."""


def defaults() -> dict[str, Any]:
    """Return the values of the keys that a config may leave out."""
    return {key: rule["default"] for key, rule in _schema()["properties"].items() if "default" in rule}


def shape_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line, with its key, for whatever has the wrong shape."""
    errors = Draft202012Validator(_schema()).iter_errors(config)
    for error in sorted(errors, key=lambda error: list(map(str, error.absolute_path))):
        yield from _explain(error)


def refuse(source: str, problems: Iterable[str]) -> None:
    """Raise a `StudyError` with a line per problem, each naming `source`; nothing where there is none."""
    lines = list(problems)
    if lines:
        raise StudyError(f"{source}: " + f"\n{source}: ".join(lines))


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a complaint about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _explain(error: ValidationError) -> Iterator[str]:
    where = ".".join(str(step) for step in error.absolute_path)
    rule, value = cast("dict[str, Any]", error.schema), error.instance
    if error.validator == "additionalProperties" and isinstance(value, dict):
        place, known = f"{where}." if where else "", rule["properties"]
        for key in value:
            if key not in known:
                yield f"{place}{key} is no key of a study{meant(str(key), known)}"
    else:
        yield f"{where or 'the config'}: {error.message}"
