"""Names of reduction methods: built in, plug-ins, files; and the dicts of configs. Needs no torch."""

import difflib
import hashlib
import inspect
import os
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from dyrate.errors import DyrateError
from dyrate.files import parse_json
from dyrate.imports import built_in as built_in
from dyrate.plugins import import_file, import_plugin, source_of

if TYPE_CHECKING:
    from dyrate.reduction import ReductionMethod

ENTRY_POINTS = "dyrate.methods"

_FILE_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<cls>[A-Za-z_]\w*)")
_LONGEST_SLUG = 200  # bytes; a file name has 255, and results put suffixes behind
_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", tuple: "array"}


def references() -> dict[str, str]:
    """Return {name: "module:Class"} of the built-in methods and of those that installed packages register."""
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    return {**found, **built_in()}


def reference(name: str) -> str:
    """Return "module:Class" of a method name.

    Raises `DyrateError` for an unknown one, with the nearest name, and for one that two packages give.
    """
    if name in (own := built_in()):
        return own[name]
    known = references()  # looks through all that is installed
    if name in known:
        given = {entry.value for entry in entry_points(group=ENTRY_POINTS) if entry.name == name}
        if len(given) > 1:
            raise DyrateError(
                f"reduction method {name!r} is registered twice, as {' and '.join(sorted(given))}"
            )
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? Known" if close else "known"
    raise DyrateError(
        f"unknown reduction method {name!r:.200}; {hint}: {', '.join(sorted(known))}, "
        "or path/to/file.py:Class"
    )


def module_file(spec: str | Mapping[str, Any]) -> Path:
    """Return the source file of a spec's method, without importing it; for code fingerprints."""
    name = as_spec(spec)["name"]
    if match := _FILE_REFERENCE.fullmatch(name):
        return _existing(Path(match["file"]), name)
    return source_of(reference(name).partition(":")[0])


def class_of(name: str) -> "type[ReductionMethod]":
    """Import the class of a method name or `path/to/file.py:Class`.

    Raises `DyrateError` for a file that cannot be imported, and for a class that is no method or could not
    work as one.
    """
    from dyrate.method_class import check_class
    from dyrate.reduction import ReductionMethod

    match = _FILE_REFERENCE.fullmatch(name)
    if match:
        module, class_name = import_file(_existing(Path(match["file"]), name)), match["cls"]
    else:
        module_name, _, class_name = reference(name).partition(":")
        own = module_name.startswith("dyrate.")
        module = import_module(module_name) if own else import_plugin(module_name)
    cls = getattr(module, class_name, None)
    if not (inspect.isclass(cls) and issubclass(cls, ReductionMethod)):
        raise DyrateError(
            f"reduction method {name!r}: {class_name} is not a subclass of dyrate.ReductionMethod"
        )
    if match and cls.__module__.startswith("dyrate."):
        raise DyrateError(
            f"reduction method {name!r}: that file only imports {class_name} from {cls.__module__}; use the "
            f"name {cls.name!r}"
        )
    check_class(cls)  # type: ignore[arg-type] # mypy takes __hash__ for the class's own
    if match:
        # What `spec()` writes must load again.
        cls.name = name
    return cls


def load_method(spec: str | Mapping[str, Any]) -> "ReductionMethod":
    """Make a method of a dict such as {"name": "fastv", "layer": 2, "rate": 0.5}, or of a name or JSON text.

    Unknown names and fields, missing and unfit values are a `DyrateError` that says what would be right.
    """
    spec = as_spec(spec)
    name = spec["name"]
    cls = class_of(name)
    properties = schema(cls)["properties"]
    fields = {key: value for key, value in spec.items() if key != "name"}
    for key in fields:
        if key not in properties:
            close = difflib.get_close_matches(str(key), properties, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            allowed = ", ".join(other for other in properties if other != "name") or "none"
            raise DyrateError(f"reduction method {name!r} has no field {key!r}{hint} Its fields: {allowed}")
        for other in properties[key].get("replaces", ()):
            if spec[key] is not None and other in spec:
                raise DyrateError(
                    f"reduction method {name!r}: {key}={spec[key]!r:.80} stands for {other}, which is "
                    f"{spec[other]!r:.80}: leave one of them out"
                )
    missing = [key for key in schema(cls)["required"] if key not in spec]
    if missing:
        docs = [doc for key in missing if (doc := properties[key].get("description"))]
        means = f" ({'; '.join(docs)})" if docs else ""
        raise DyrateError(f"reduction method {name!r} needs a value for {', '.join(missing)}{means}")
    return cls(**fields)


def as_spec(value: str | Mapping[str, Any], what: str = "reduction method") -> dict[str, Any]:
    """Return the mapping that people write as a name, as JSON text, or as a mapping with a `name`.

    `what` says in errors where the value came from.
    """
    spec: Any = value
    if isinstance(value, str):
        spec = (
            parse_json(value, f"{what}: {value!r:.80}") if value.lstrip().startswith("{") else {"name": value}
        )
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str) or not all(map(_is_text, spec)):
        raise DyrateError(
            f"{what}: expected a name, or a mapping with a 'name', such as {{'name': 'none'}}, "
            f"not {value!r:.200}"
        )
    return dict(spec)


def schema(cls: "type[ReductionMethod]") -> dict[str, Any]:
    """Return the JSON schema of a method's spec, made of the fields of its class."""
    from dataclasses import MISSING, fields

    hints = get_type_hints(cls)
    properties: dict[str, Any] = {"name": {"const": cls.name}}
    required = ["name"]
    for field in fields(cls):
        kind = _JSON_TYPES.get(get_origin(hints[field.name]) or hints[field.name])
        entry: dict[str, Any] = {"type": kind} if kind else {}
        entry |= {"description": field.metadata["doc"]} if "doc" in field.metadata else {}
        entry |= {key: field.metadata[key] for key in ("minimum", "maximum") if key in field.metadata}
        entry |= {"enum": list(field.metadata["choices"])} if "choices" in field.metadata else {}
        entry |= {"replaces": list(field.metadata["replaces"])} if "replaces" in field.metadata else {}
        if field.default is MISSING:
            required.append(field.name)
        else:
            entry["default"] = field.default
        properties[field.name] = entry
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def slug(spec: Mapping[str, Any]) -> str:
    """Return a directory name for a spec: `fastv-layer=2-rate=0.5`, fields in sorted order.

    Equal numbers are written alike (1.0 as 1), lists joined by `+`. A method given by its file goes by its
    class name. Other characters than letters, digits and `._=+-` become `_`. What is too long for a file name
    ends in a hash instead.
    """
    name = as_spec(spec)["name"]
    match = _FILE_REFERENCE.fullmatch(name)
    parts = [match["cls"] if match else name]
    parts += [f"{key}={_plain(spec[key])}" for key in sorted(spec) if key != "name"]
    text = "-".join(parts)
    plain = re.sub(r"[^A-Za-z0-9._=+-]", "_", text)
    if len(plain) <= _LONGEST_SLUG:
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{plain[: _LONGEST_SLUG - 17]}-{digest}"


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(_plain, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _existing(path: Path, name: str) -> Path:
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises for what cannot be a path
        raise DyrateError(
            f"reduction method {name!r:.300}: there is no file {path!s:.300} (relative to {Path.cwd()})"
        )
    return path
