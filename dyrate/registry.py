"""Names of reduction methods: built in, plug-ins, files; and the dicts of configs. Needs no torch."""

import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from dyrate.errors import DyrateError

if TYPE_CHECKING:
    from dyrate.reduction import ReductionMethod

ENTRY_POINTS = "dyrate.methods"

BUILT_IN = {
    "none": "dyrate.methods.none:NoReduction",
    "fastv": "dyrate.methods.fastv:FastV",
    "vtw": "dyrate.methods.vtw:VTW",
    "random": "dyrate.methods.random:RandomTokens",
    "uniform": "dyrate.methods.uniform:UniformStride",
    "text_only": "dyrate.methods.text_only:TextOnly",
    "downsample": "dyrate.methods.downsample:Downsample",
    "fixed_prune": "dyrate.methods.fixed_prune:FixedPrune",
    "replay": "dyrate.methods.replay:Replay",
    "depth_prune": "dyrate.methods.depth_prune:DepthBasedPrune",
    "dyrate": "dyrate.methods.dyrate:DyRate",
}

_FILE_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<cls>[A-Za-z_]\w*)")
_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", tuple: "array"}


def references() -> dict[str, str]:
    """Return {name: "module:Class"} of the built-in methods and of those that installed packages register."""
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    return {**found, **BUILT_IN}


def reference(name: str) -> str:
    """Return "module:Class" of a method name; a `DyrateError` with the nearest names for an unknown one."""
    known = references()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DyrateError(
        f"unknown reduction method {name!r}{hint} Known: {', '.join(sorted(known))}, or path/to/file.py:Class"
        if hint
        else f"unknown reduction method {name!r}; known: {', '.join(sorted(known))}, or path/to/file.py:Class"
    )


def module_file(spec: Mapping[str, Any]) -> Path:
    """Return the source file of a spec's method, without importing it; for code fingerprints."""
    name = _name_of(spec)
    if match := _FILE_REFERENCE.fullmatch(name):
        return _existing(Path(match["file"]), name)
    module = reference(name).partition(":")[0]
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise DyrateError(f"reduction method {name!r}: there is no module {module}")
    return Path(found.origin)


def class_of(name: str) -> "type[ReductionMethod]":
    """Import the class of a method name or `path/to/file.py:Class`; `DyrateError` if it is none."""
    from dyrate.reduction import ReductionMethod

    match = _FILE_REFERENCE.fullmatch(name)
    if match:
        module, class_name = _import_file(_existing(Path(match["file"]), name)), match["cls"]
    else:
        module_name, _, class_name = reference(name).partition(":")
        module = import_module(module_name)
    cls = getattr(module, class_name, None)
    if not (inspect.isclass(cls) and issubclass(cls, ReductionMethod)):
        raise DyrateError(
            f"reduction method {name!r}: {class_name} is not a subclass of dyrate.ReductionMethod"
        )
    if inspect.get_annotations(cls) and "__dataclass_fields__" not in vars(cls):
        raise DyrateError(
            f"reduction method {name!r}: {class_name} needs the decorator @dataclass(frozen=True)"
        )
    if match:
        # What `spec()` writes must load again.
        cls.name = name
    return cls


def load_method(spec: Mapping[str, Any]) -> "ReductionMethod":
    """Make a method of a dict such as {"name": "fastv", "layer": 2, "rate": 0.5}.

    Unknown names and fields, missing and unfit values are a `DyrateError` that says what would be right.
    """
    name = _name_of(spec)
    cls = class_of(name)
    properties = schema(cls)["properties"]
    fields = {key: value for key, value in spec.items() if key != "name"}
    for key in fields:
        if key not in properties:
            close = difflib.get_close_matches(key, properties, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            allowed = ", ".join(other for other in properties if other != "name") or "none"
            raise DyrateError(f"reduction method {name!r} has no field {key!r}{hint} Its fields: {allowed}")
    missing = [key for key in schema(cls)["required"] if key not in spec]
    if missing:
        raise DyrateError(f"reduction method {name!r} needs a value for {', '.join(missing)}")
    return cls(**fields)


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
        if field.default is MISSING:
            required.append(field.name)
        else:
            entry["default"] = field.default
        properties[field.name] = entry
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def slug(spec: Mapping[str, Any]) -> str:
    """Return a directory name for a spec: `fastv-layer=2-rate=0.5`, fields in sorted order.

    Lists are joined by `+`. A method given by its file goes by its class name. Other characters than
    letters, digits and `._=+-` become `_`.
    """
    name = _name_of(spec)
    match = _FILE_REFERENCE.fullmatch(name)
    parts = [match["cls"] if match else name]
    parts += [f"{key}={_plain(spec[key])}" for key in sorted(spec) if key != "name"]
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", "-".join(parts))


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _name_of(spec: Mapping[str, Any]) -> str:
    name = spec.get("name") if isinstance(spec, Mapping) else None
    if not isinstance(name, str):
        raise DyrateError(
            f"a reduction method is a mapping with a 'name', such as {{'name': 'fastv'}}, not {spec!r}"
        )
    return name


def _existing(path: Path, name: str) -> Path:
    if not path.is_file():
        raise DyrateError(f"reduction method {name!r}: there is no file {path} (relative to {Path.cwd()})")
    return path


def _import_file(path: Path) -> Any:
    module_name = "dyrate_method_" + re.sub(r"\W", "_", str(path.resolve()))
    if module_name in sys.modules:
        return sys.modules[module_name]
    found = importlib.util.spec_from_file_location(module_name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    # Dataclasses look their module up by name.
    sys.modules[module_name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
