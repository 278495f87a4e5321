"""What a method class declares must have an effect: misspelt overrides and those never asked are refused."""

import dataclasses
import difflib
import sys
from collections.abc import Iterable
from functools import cache
from types import FunctionType
from typing import Any, get_type_hints

from dyrate.contract import Contract
from dyrate.errors import DyrateError
from dyrate.needs import Needs, checked

# What changes the tokens. Everything else that can be overridden only has a part in one of these.
_EFFECTS = ("prefill", "decode", "install")
_CLOSE = 0.8


@cache
def check_class(cls: type[Any]) -> None:
    """Raise `DyrateError` for a class that is no frozen dataclass, or whose overrides have no effect."""
    where = f"{getattr(sys.modules.get(cls.__module__), '__file__', cls.__module__)}: {cls.__qualname__}"
    # What adds no fields may do without the decorator.
    own = vars(cls).get("__annotations__", {})
    if own and "__dataclass_fields__" not in vars(cls):
        raise DyrateError(f"{where} needs the decorator @dataclass(frozen=True)")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise DyrateError(f"{where} must override {', '.join(missing)}")
    try:
        get_type_hints(cls)
    except Exception as error:
        raise DyrateError(f"{where}: the type of a field cannot be read: {error}") from error
    for problem in (*_misspelt(cls), *_fields(cls), *_without_effect(cls)):
        raise DyrateError(f"{where}: {problem}")


def check_needs(method: Contract, depth: int) -> Needs:
    """Return what a method needs of a model of `depth` layers.

    Raises `DyrateError` where the model does not have it, and where the method would never be asked.
    """
    needs = checked(method.needs(depth), depth, str(method))
    asked = [name for name in ("prefill", "decode") if _overrides(type(method), name)]
    changes = any(_overrides(type(method), name) for name in _EFFECTS)
    if not (changes or needs.blocked or vars(type(method)).get("changes_nothing")):
        raise DyrateError(f"{method}: it hides no tokens and drops none, so it would be the unpruned model")
    if asked and not needs.layers and not _overrides(type(method), "install"):
        raise DyrateError(
            f"{method}: needs names no layer of this model: {' and '.join(asked)} would never be asked"
        )
    for name, layers in (("prefill", needs.prefill), ("decode", needs.decode)):
        if layers and name not in asked:
            raise DyrateError(
                f"{method}: needs names layers {layers} at {name}, but there is no {name} to ask"
            )
    return needs


def _misspelt(cls: type[Any]) -> Iterable[str]:
    """Overrides that nobody would ask: their names are nearly those of what a base class has."""
    mro = cls.__mro__
    fields = {field.name for field in dataclasses.fields(cls)}
    for place, owner in enumerate(mro):
        known = {
            name
            for base in mro[place + 1 : -1]
            for name, value in vars(base).items()
            if isinstance(value, FunctionType | property) and not name.startswith("_")
        }
        for name in vars(owner):
            if name.startswith("_") or name in known or name in fields or not known:
                continue
            close = difflib.get_close_matches(_folded(name), map(_folded, known), n=1, cutoff=_CLOSE)
            meant = next((other for other in known if [_folded(other)] == close), None)
            if meant is not None and meant not in vars(owner):
                yield (
                    f"{name} overrides nothing; did you mean {meant!r}? "
                    f"What is neither an override nor a field starts with _"
                )


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _fields(cls: type[Any]) -> Iterable[str]:
    for field in dataclasses.fields(cls):
        if field.name == "name":  # stands beside the hyperparameters in configs and tables
            yield f"a field cannot be called {field.name!r}: without its type it is an attribute of the class"
        elif any(isinstance(vars(base).get(field.name), FunctionType) for base in cls.__mro__):
            yield f"the field {field.name!r} hides what the method does on being asked: give it another name"


def _without_effect(cls: type[Any]) -> Iterable[str]:
    asked = [name for name in ("prefill", "decode") if _overrides(cls, name)]
    effects = (*_EFFECTS, "needs")  # which may hide tokens from others
    if not any(_overrides(cls, name) for name in effects) and not vars(cls).get("changes_nothing"):
        yield (
            f"it overrides none of {', '.join(effects)}, so it would be the unpruned model; a class that "
            "means to be says changes_nothing = True"
        )
    if asked and not _overrides(cls, "needs"):
        yield f"{' and '.join(asked)} would never be asked: override needs as well"


def _overrides(cls: type, name: str) -> bool:
    return getattr(cls, name) is not getattr(Contract, name)
