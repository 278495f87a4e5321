"""Typed records of what people write, as pydantic models, and what is wrong with one, a line a mistake."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
)

from dyrate.errors import DyrateError
from dyrate.files import read_json, write_json

_LONGEST = 200  # characters of a value in a complaint


class Record(BaseModel):
    """A model whose values are taken as they are: no 2.0 for 2, no unknown keys."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def of(cls, values: Mapping[str, Any], place: Callable[[str], str] = str) -> Self:
        """Check values by key; a `DyrateError` has a line per mistake, its key as `place` writes it."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DyrateError("\n".join(complaints(cls, error, place))) from None


def _given(value: Any) -> Any:
    if value is None:
        raise ValueError("null is no value; leave the key out")
    return value


def once(values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse names that are given twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is given twice")
    return values


Value = TypeVar("Value")
NOT_NULL = BeforeValidator(_given)
NotEmpty = Field(min_length=1)
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Origin = Literal["paper", "ours"]
"""Whose a DyRate is: as the paper describes it, or with more than that, which is ours."""
Text = Annotated[str, Field(pattern=r"\S")]
File = Annotated[Path, Strict(False)]
"""Text, or a `Path`."""
Names = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
OrAbsent = Annotated[Value | None, NOT_NULL]
"""For a key of the default None that may be left out, but not be null."""
DistinctNames = Annotated[Names, AfterValidator(once)]


def read(kind: type[Value], path: Path, fault: type[DyrateError]) -> Value:
    """Read a JSON file of a kind, a `TypedDict` whose configuration is `Record`'s, more or less.

    Raises a `fault` with a line per mistake: the file, its key, the value, and what would be right.
    """
    value = read_json(path, fault)
    check(kind, value, path, fault)
    found: Value = value
    return found


def write(kind: Any, path: Path, value: Mapping[str, Any], fault: type[DyrateError]) -> None:
    """Check a value as `read` does, and write it atomically; equal ones give equal bytes."""
    check(kind, value, path, fault)
    write_json(path, value)


def check(kind: Any, value: Any, path: Path, fault: type[DyrateError]) -> None:
    """Raise a `fault`, as `read` does, for a value that is not of the kind that `path` should hold."""
    try:
        _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise fault("\n".join(f"{path}: {line}" for line in complaints(kind, error, str))) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def complaints(kind: type[Any], error: ValidationError, place: Callable[[str], str]) -> Iterator[str]:
    """Yield a line for each thing that a record of that kind does not take.

    A file of another `schema` or `version` has nothing else wrong: its keys are others.
    """
    errors = error.errors()
    for one in [one for one in errors if one["loc"] in (("schema",), ("version",))] or errors:
        *outer, key = one["loc"] or ("",)
        where = place(".".join(map(str, one["loc"]))) if one["loc"] else ""
        if one["type"] == "extra_forbidden":
            yield f"{where} is unknown{meant(str(key), _keys(kind, outer))}"
        elif one["type"] == "missing":
            yield f"{where} is missing"
        elif one["type"] != "too_short" or not any(_within(other["loc"], one["loc"]) for other in errors):
            yield f"{where}: {_what_is_wrong(one)}".removeprefix(": ")


def _within(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    """Whether a mistake is in an entry of what another is about: a list is short without its bad entries."""
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a complaint about an unknown name: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def bare(kind: Any, limits: Iterable[Any] = ()) -> tuple[Any, list[Any]]:
    """A type without None and without its limits; those, with some more, apart."""
    found = list(limits)
    while get_origin(kind) in (Annotated, Union, UnionType):
        if get_origin(kind) is Annotated:
            found += [limit for one in kind.__metadata__ for limit in getattr(one, "metadata", [one])]
        kind = next(part for part in get_args(kind) if part is not NoneType)
    return kind, found


def _keys(kind: Any, steps: Iterable[str | int]) -> list[str]:
    """The keys of the record to which steps lead, from one of that kind."""
    for step in steps:
        inner = {dict: 1, list: 0, tuple: 0}.get(get_origin(kind))
        kind, _ = bare(_fields(kind)[step] if inner is None else get_args(kind)[inner])
    return list(_fields(kind))


def _fields(kind: Any) -> dict[Any, Any]:
    """The types of a record's fields, by name."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return get_type_hints(kind)


def _what_is_wrong(error: Any) -> str:
    value, context = error["input"], error.get("ctx", {})
    shown = f"{value!r:.{_LONGEST}}"
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return f"{shown} is not {'one of ' * (len(choices) > 1)}{', '.join(choices)}{hint}"
        case "string_pattern_mismatch":
            return f"{shown} does not match {context['pattern']!r}" if value.strip() else "nothing is given"
        case "string_too_long":
            return f"{shown} is too long: {context['max_length']} characters at most"
        case "greater_than_equal":
            kind = "whole number" if isinstance(context["ge"], int) else "number"
            return f"{shown} is not a {kind} from {context['ge']:g} on"
        case kind if kind in _SIDES:
            return f"{shown} is not {_SIDES[kind]} {next(iter(context.values()))}"
        case "too_short" if not value:
            return "nothing is given"
        case "too_short":
            return f"{shown} has {len(value)} of at least {context['min_length']} entries"
        case kind:
            return f"{shown} is not {_KINDS[kind]}" if kind in _KINDS else f"{shown}: {error['msg']}"


_SIDES = {"greater_than": "above", "less_than": "below", "less_than_equal": "at most"}
_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "the path of a file",
}
