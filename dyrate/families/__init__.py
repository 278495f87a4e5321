"""The model families that token reduction knows: one file each, found by being there."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import nn

from dyrate.errors import DyrateError
from dyrate.families.family import Family
from dyrate.families.tower import Tower

__all__ = ["Family", "Tower", "families", "family_of"]

# Rotary embeddings whose frequencies stay the same however long the prompt is.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@cache
def families() -> dict[str, type[Family]]:
    """Return the families by the names of their models' classes in transformers."""
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    kinds = {kind for module in modules for kind in vars(module).values() if _is_family(kind)}
    return {model: kind for kind in kinds for model in kind.models}


def _is_family(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Family) and "models" in vars(value)


def family_of(model: nn.Module) -> Family:
    """Return the parts of `model`; a `DyrateError` names the supported families and text models otherwise."""
    kind, known = type(model), families()
    family_class = known.get(vars(kind).get("family_name", kind.__name__))
    if family_class is None:
        raise DyrateError(
            f"no model family adapter for {type(model).__name__}; supported: {', '.join(sorted(known))}. "
            "A wrapped model (PEFT, DDP) must be unwrapped first"
        )
    config: Any = model.config
    config = config.get_text_config()
    if config.model_type not in family_class.text_models:
        raise DyrateError(
            f"{type(model).__name__} with a text model of type {config.model_type!r} is not supported; "
            f"supported text models: {', '.join(family_class.text_models)}"
        )
    family = family_class(model)
    config = family.text_config
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    if set(layer_types) != {"full_attention"} or (
        config.model_type == "mistral" and config.sliding_window is not None
    ):
        raise DyrateError(
            "the text model uses sliding-window attention; supported is full attention in every layer"
        )
    rope_type = config.rope_parameters["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise DyrateError(
            f"the text model uses rotary embeddings of type {rope_type!r}, whose frequencies depend on the "
            f"length of the batch; supported: {', '.join(ROPE_TYPES)}"
        )
    # The first of each part, as models are spread by parts: all of them take a millisecond of every prompt.
    whole: Any = model
    ends = whole.get_input_embeddings(), whole.get_output_embeddings()
    parts = (*family.layers, *family.encoder_owner.children(), *ends)
    kinds = set(map(_device_type, parts))
    if "meta" in kinds and len(kinds) > 1:  # all of it there is a model without weights, to look at
        raise DyrateError(
            "parts of the model are on no device, as there was no room for them: load it onto devices that "
            "hold all of it (device_map={'': device}, or max_memory)"
        )
    return family


def _device_type(part: nn.Module) -> str:
    """Of a module's first weight; `parameters()` would take ten times as long, at every prompt."""
    weights = (weight for module in part.modules() for weight in module._parameters.values())
    return next(weight.device.type for weight in weights if weight is not None)
