"""A kind of job: one record, whose fields are the options of its command, the keys of its entry in a file of
jobs, and what it prints as the command that asks for it.
"""

import argparse
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from dyrate.errors import DyrateError
from dyrate.typed import Record, bare

_GROUPS = ("what", "data", "how", "result")
_WHOLE = re.compile("-?[0-9]+")
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # has no public name


def option(
    group: Literal["what", "data", "how", "result"],
    metavar: str | None = None,
    text: str | None = None,
    printed: Literal["always", "changed", "never"] = "always",
    alone: str | None = None,
    by_place: bool = False,
    adds: bool = False,
) -> Any:
    """Describe a field; its help is `text`, or the docstring below it, to which the default is added.

    `printed` says whether a printed command names it: always, if it is not the default, or never. `alone` is
    what the option means without a value; one `by_place` is given without a flag, and may be left out; one
    that `adds`, given again, does not replace what it was given before.
    """
    form: dict[str, Any] = {"group": group, "metavar": metavar, "printed": printed}
    form |= {"alone": alone, "by_place": by_place, "adds": adds}
    return Field(description=text, json_schema_extra=form)


class Job(Record):
    """What a command is asked to do; a subclass is a kind of job, and each of its fields an `option`."""

    command_name: ClassVar[str]
    one_of: ClassVar[tuple[str, ...]] = ()
    """Fields of which exactly one is given."""

    @model_validator(mode="after")
    def _check_one_of(self) -> "Job":
        if self.one_of and sum(getattr(self, name) is not None for name in self.one_of) != 1:
            fields = type(self).model_fields
            names = [
                str(_form(fields[name])["metavar"]) if _form(fields[name])["by_place"] else flag(name)
                for name in self.one_of
            ]
            raise ValueError(f"exactly one of {' and '.join(names)} must be given")
        return self

    def arguments(self) -> list[str]:
        """The options that ask for this job."""
        found: list[str] = []
        for name, field in type(self).model_fields.items():
            value, printed = getattr(self, name), _form(field)["printed"]
            given = value is not None and value is not False
            if given and printed != "never" and (printed == "always" or value != field.default):
                values = value if isinstance(value, tuple) else () if value is True else (value,)
                words = [*map(_text, values)]
                # What has its place in front stands there, or an option of several values would take it.
                found = [*words, *found] if _form(field)["by_place"] else [*found, flag(name), *words]
        return found

    def command(self) -> str:
        """The command line that asks for this job, for a shell."""
        return shlex.join(["dyrate", self.command_name, *self.arguments()])

    @classmethod
    def add_parser(
        cls, subparsers: Subparsers, text: str, description: str, examples: str
    ) -> argparse.ArgumentParser:
        """Add the command and its options; what is not given does not come into the namespace."""
        parser = subparsers.add_parser(
            cls.command_name,
            help=text,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for group in _GROUPS:
            place = parser.add_argument_group(group)
            either = (
                place.add_mutually_exclusive_group(required=True) if group == "what" and cls.one_of else place
            )
            chosen = [pair for pair in cls.model_fields.items() if _form(pair[1])["group"] == group]
            for name, field in sorted(chosen, key=lambda pair: not pair[1].is_required()):
                word = name if _form(field)["by_place"] else flag(name)
                (either if name in cls.one_of else place).add_argument(word, **_argument(field))
        return parser


class FromFile(argparse.Action):
    """The option that names a file of jobs: what each of them must say need not stand beside it."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *given: Any) -> None:
        """Take the file's name."""
        setattr(namespace, self.dest, given[0])
        for action in parser._actions:
            action.required = False


Kind = TypeVar("Kind", bound=Job)


def asked(kind: type[Kind], arguments: argparse.Namespace, file: str | None = None) -> list[Kind]:
    """The jobs that a command line asks for: one, or those in a file, whose defaults it gives.

    Raises `DyrateError` with a line per mistake: its option, or the file, the entry and its key.
    """
    given = {name: value for name, value in vars(arguments).items() if name in kind.model_fields}
    if file is None:
        return [kind.of(given, flag)]
    from dyrate.plain import read_plain

    entries = read_plain(Path(file))
    if not isinstance(entries, list) or not entries:
        raise DyrateError(f"--jobs {file}: expected a list of jobs, such as - {{output: results/try}}")
    return [_from_entry(kind, given, entry, f"{file}: {number}") for number, entry in enumerate(entries)]


def _from_entry(kind: type[Kind], given: Mapping[str, Any], entry: Any, where: str) -> Kind:
    if not isinstance(entry, dict):
        raise DyrateError(f"{where}: {entry!r:.80} is not a mapping of options")
    return kind.of({**given, **entry}, lambda key: f"{where}.{key}")


def flag(key: str) -> str:
    """The option of a field, or of the place of a value in it: `--batch-size`."""
    return f"--{key.partition('.')[0].replace('_', '-')}"


def _form(field: FieldInfo) -> Mapping[str, Any]:
    assert isinstance(field.json_schema_extra, dict), "each field of a job is an option"
    return field.json_schema_extra


def _argument(field: FieldInfo) -> dict[str, Any]:
    """What argparse is told of a field: how words are taken, not which; that is for the record to say."""
    kind, limits = bare(field.annotation, field.metadata)
    shown = f"{field.description or ''}{_default(field)}"
    told: dict[str, Any] = {"default": argparse.SUPPRESS, "help": shown.replace("%", "%%")}
    if kind is bool:
        return {**told, "action": "store_true"}
    if get_origin(kind) is tuple:
        told["nargs"] = "+" if any(getattr(limit, "min_length", 0) for limit in limits) else "*"
        if _form(field)["adds"]:
            told["action"] = "extend"
        kind, _ = bare(get_args(kind)[0])
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if kind is int or any(isinstance(choice, int) for choice in choices):
        told["type"] = _whole_number
    elif kind is float:
        told["type"] = _number
    told["metavar"] = _form(field)["metavar"] or (f"{{{','.join(map(str, choices))}}}" if choices else None)
    if _form(field)["alone"] is not None:
        told |= {"nargs": "?", "const": _form(field)["alone"]}
    if _form(field)["by_place"]:
        return {**told, "nargs": "?"}
    return {**told, "required": field.is_required()}


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if field.is_required() or default is None or default is False or default in ((), {}):
        return ""
    values = default if isinstance(default, tuple) else (default,)
    words = (str(value["name"] if isinstance(value, dict) else value) for value in values)
    return f" (default: {' '.join(words)})"


def _whole_number(text: str) -> int | str:
    return int(text) if _WHOLE.fullmatch(text) else text


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:  # for the record to say
        return text


def _text(value: Any) -> str:
    return json.dumps(dict(value)) if isinstance(value, Mapping) else str(value)
