"""What a method class declares must have an effect: misspelt overrides and those never asked are refused."""

import dataclasses
import difflib
import operator
import sys
from collections.abc import Iterable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from dyrate.errors import DyrateError

if TYPE_CHECKING:
    from dyrate.reduction import ReductionMethod

# What changes the tokens. Everything else that can be overridden only has a part in one of these.
_EFFECTS = ("prefill", "decode", "resize", "encode")
# Fields are called by the hyperparameters that configs and tables show, beside the method's name.
_RESERVED = ("name",)
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


def check_layers(method: "ReductionMethod", num_layers: int) -> None:
    """Raise `DyrateError` unless a model of so many layers can do what the method declares."""
    from dyrate.reduction import DecodeMode, Positions, ReductionMethod

    pruned = layers_of(method, "prune_layers", num_layers)
    statistics = layers_of(method, "statistics_layers", num_layers)
    reported = method.reported_layer(num_layers)
    if reported is not None and reported not in statistics:
        raise DyrateError(
            f"{method}: reported_layer is {reported!r}, which is none of its statistics layers {statistics}"
        )
    for name, known in (("decode_mode", get_args(DecodeMode)), ("position_policy", get_args(Positions))):
        if getattr(method, name) not in known:
            raise DyrateError(
                f"{method}: {name} is {getattr(method, name)!r}; expected one of {', '.join(known)}"
            )
    asked = [name for name in ("prefill", "decode") if _overrides(type(method), ReductionMethod, name)]
    if asked and not pruned and not method.reduces_encoder:
        raise DyrateError(
            f"{method}: prune_layers names no layer of this model: {' and '.join(asked)} would never be asked"
        )


def layers_of(method: "ReductionMethod", name: str, num_layers: int) -> tuple[int, ...]:
    """Return what `method.prune_layers` or `method.statistics_layers` says, checked."""
    found: Any = getattr(method, name)(num_layers)
    return layers_from(found, num_layers, f"{method}: {name}")


def layers_from(found: Any, num_layers: int, what: str) -> tuple[int, ...]:
    """Return numbers of layers in order; a `DyrateError` for what a model of so many does not have."""
    if not isinstance(found, Iterable) or isinstance(found, str | bytes):
        raise DyrateError(f"{what}: expected a tuple of layers, not {found!r:.200}")
    layers = set()
    for layer in found:
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise DyrateError(f"{what}: {layer!r:.80} is no layer: expected a whole number")
        number = operator.index(layer)
        if not 0 <= number < num_layers:
            raise DyrateError(f"{what}: there is no layer {number}; the model has layers 0..{num_layers - 1}")
        layers.add(number)
    return tuple(sorted(layers))


def _misspelt(cls: "type[ReductionMethod]") -> Iterable[str]:
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


def _fields(cls: "type[ReductionMethod]") -> Iterable[str]:
    from dyrate.reduction import ReductionMethod

    for field in dataclasses.fields(cls):
        if field.name in _RESERVED:
            yield f"a field cannot be called {field.name!r}: without its type it is an attribute of the class"
        elif isinstance(getattr(ReductionMethod, field.name, None), FunctionType):
            yield f"the field {field.name!r} hides what the method does on being asked: give it another name"


def _without_effect(cls: "type[ReductionMethod]") -> Iterable[str]:
    from dyrate.reduction import ReductionMethod

    def overrides(name: str) -> bool:
        return _overrides(cls, ReductionMethod, name)

    asked = [name for name in ("prefill", "decode") if overrides(name)]
    if not any(map(overrides, _EFFECTS)) and not vars(cls).get("changes_nothing"):
        yield (
            f"it overrides none of {', '.join(_EFFECTS)}, so it would be the unpruned model; a class that "
            "means to be says changes_nothing = True"
        )
    if asked and not overrides("prune_layers"):
        yield f"{' and '.join(asked)} would never be asked: override prune_layers as well"
    if overrides("merge") and not overrides("prefill"):
        yield "merge would never be asked: it follows what prefill returns"
    if overrides("decode") and not overrides("decode_mode"):
        yield "decode would never be asked: set decode_mode to 'evict' or 'select'"
    mode: object = cls.decode_mode  # a property or, as such, the mode
    if mode in ("evict", "select") and not overrides("decode"):
        yield f"decode_mode is {mode!r}, but there is no decode to ask"


def _overrides(cls: type, base: type, name: str) -> bool:
    return getattr(cls, name) is not getattr(base, name)
