"""The shape of a study's config: which keys there are, of which types, with which defaults."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from dyrate.study.reading import StudyError, plain_problems

SCHEMA_FILE = Path(__file__).with_name("study.schema.yaml")
_LONGEST = 400  # characters of a complaint, which may quote a whole list


def defaults() -> dict[str, Any]:
    """Return the values of the keys that a config may leave out."""
    return {key: rule["default"] for key, rule in _schema()["properties"].items() if "default" in rule}


def shape_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line, with its key, for whatever has the wrong shape."""
    unplain = list(plain_problems(config))
    yield from unplain
    errors = [] if unplain else _Validator(_schema()).iter_errors(config)
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
        yield f"{where or 'the config'}: {_shortened(error.message)}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    """As JSON Schema has it, but that `$` is the end of the text: Python's precedes a last line break."""
    if isinstance(value, str) and not re.search(re.sub(r"\$\Z", r"\\Z", pattern), value):
        yield ValidationError(
            f"{value!r} does not match {pattern!r}" if value.strip() else "nothing is given"
        )


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {"pattern": _pattern},
    # As JSON Schema has it, 2.0 is an integer; no command line takes it for one.
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)
