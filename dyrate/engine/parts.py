"""What the engine may stand in for: modules of exactly the kinds that it was tested with, as they come.

The engine reads weights past their modules. So whatever makes a module do something else than its class (a
hook, an adapter, a method of its own) is refused, and what changes between two calls is noticed.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_hooks
from transformers.activations import SiLUActivation
from transformers.models.internvl import modeling_internvl as internvl
from transformers.models.llama import modeling_llama as llama
from transformers.models.llava import modeling_llava as llava
from transformers.models.llava_next import modeling_llava_next as llava_next
from transformers.models.llava_onevision import modeling_llava_onevision as llava_onevision
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen3 import modeling_qwen3 as qwen3
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

from dyrate.errors import DyrateError

_TEXT = "model.language_model"
_CURE = "the graph engine reads weights past their modules: use engine='transformers'"
_OBSERVERS = ("transformers.utils.output_capturing", "torch.utils.module_tracker")
"""Modules whose hooks look on and change nothing."""
_ELSEWHERE = ("generate",)
"""Methods that the engine has its own way for, whoever replaces them."""
_FIXED = {"max_norm": None, "sliding_window": None, "is_causal": True}
"""Settings of modules that the engine has no other way for."""
_COUNTS = (bool, int, float)
_RUN_AS_THEY_ARE = ("model.vision_tower", "model.visual", "model.multi_modal_projector")
_WHOLES: dict[type[nn.Module], type[nn.Module]] = {
    llava.LlavaForConditionalGeneration: llava.LlavaModel,
    llava_next.LlavaNextForConditionalGeneration: llava_next.LlavaNextModel,
    llava_onevision.LlavaOnevisionForConditionalGeneration: llava_onevision.LlavaOnevisionModel,
    qwen2_5_vl.Qwen2_5_VLForConditionalGeneration: qwen2_5_vl.Qwen2_5_VLModel,
    qwen3_vl.Qwen3VLForConditionalGeneration: qwen3_vl.Qwen3VLModel,
    internvl.InternVLForConditionalGeneration: internvl.InternVLModel,
}
"""Models, and the class of their `model`; both run as they are while the prompt is read."""
_LAYER = re.compile(rf"^({re.escape(_TEXT)}\.layers)\.\d+")
_Classes = tuple[type[nn.Module], ...]


def _kinds(name: str, source: Any, *, head_norms: bool = False, **others: str) -> dict[str, _Classes]:
    """Return the classes of a text model's modules, by path in the model, layers as `layers.*`.

    They are called `name` and the part, or what `others` says. `head_norms`: queries and keys have norms.
    """

    def own(part: str) -> _Classes:
        return (getattr(source, others.get(part, name + part)),)

    layer: dict[str, _Classes] = {
        "": own("DecoderLayer"),
        ".self_attn": own("Attention"),
        **{f".self_attn.{part}_proj": (nn.Linear,) for part in "qkvo"},
        ".mlp": own("MLP"),
        **{f".mlp.{part}_proj": (nn.Linear,) for part in ("gate", "up", "down")},
        ".mlp.act_fn": (nn.SiLU, SiLUActivation),
        ".input_layernorm": own("RMSNorm"),
        ".post_attention_layernorm": own("RMSNorm"),
    }
    if head_norms:
        layer |= {".self_attn.q_norm": own("RMSNorm"), ".self_attn.k_norm": own("RMSNorm")}
    return {
        "": tuple(_WHOLES),
        "model": tuple(_WHOLES.values()),
        _TEXT: own("Model"),
        f"{_TEXT}.embed_tokens": (nn.Embedding,),
        f"{_TEXT}.layers": (nn.ModuleList,),
        **{f"{_TEXT}.layers.*{part}": classes for part, classes in layer.items()},
        f"{_TEXT}.norm": own("RMSNorm"),
        f"{_TEXT}.rotary_emb": own("RotaryEmbedding"),
        "lm_head": (nn.Linear,),
    }


_KINDS: dict[type, dict[str, _Classes]] = {
    kinds[_TEXT][0]: kinds
    for kinds in (
        _kinds("Llama", llama),
        _kinds("Mistral", mistral),
        _kinds("Qwen2", qwen2),
        _kinds("Qwen3", qwen3, head_norms=True),
        _kinds("Qwen2_5_VL", qwen2_5_vl, Model="Qwen2_5_VLTextModel", MLP="Qwen2MLP"),
        _kinds("Qwen3VLText", qwen3_vl, head_norms=True),
    )
}
_WEIGHTED = (nn.Linear, nn.Embedding, *(kinds[f"{_TEXT}.norm"][0] for kinds in _KINDS.values()))


def text_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield what the engine stands in for, with its path: all of a model but tower and projector."""
    for path, module in model.named_modules(remove_duplicate=False):
        if not path.startswith(_RUN_AS_THEY_ARE):
            yield path, module


def check_whole(model: Any) -> None:
    """Raise `DyrateError` for a model over several devices, or whose weights are not as they are stored."""
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        raise DyrateError(f"the model is spread over {', '.join(sorted(devices))}; {_CURE}")
    if getattr(model, "is_quantized", False):
        raise DyrateError(f"the model's weights are quantized (bits); {_CURE}")


def check_parts(model: Any) -> None:
    """Raise `DyrateError`, with its path, for a module that does anything but what its weights say."""
    check_whole(model)
    if type(model) not in _WHOLES:
        known = ", ".join(kind.__name__ for kind in _WHOLES)
        raise _refused("", f"is a {_name(type(model))}, not a plain {known}")
    parts = dict(text_parts(model))
    text = parts[_TEXT]
    if type(text) not in _KINDS:
        known = ", ".join(kind.__name__ for kind in _KINDS)
        raise _refused(_TEXT, f"is a {_name(type(text))}, not a plain {known}")
    kinds = _KINDS[type(text)]
    for path, module in parts.items():
        kind = _LAYER.sub(r"\1.*", path)
        if kind not in kinds:
            raise _refused(path, f"is a {_name(type(module))} that no {type(text).__name__} comes with")
        _check_part(path, module, kinds[kind])
    _check_together(parts)


def check_surroundings(device: torch.device) -> None:
    """Raise `DyrateError` for what changes every module's results: hooks on all of them, autocast."""
    for hooks in (torch_hooks._global_forward_hooks, torch_hooks._global_forward_pre_hooks):
        for hook in hooks.values():
            if getattr(hook, "__module__", None) not in _OBSERVERS:
                raise DyrateError(f"the forward hook {_name(hook)} is on every module; {_CURE}")
    if torch.is_autocast_enabled(device.type):
        raise DyrateError(f"torch.autocast({device.type!r}) is on: products have another dtype; {_CURE}")


def changing_hook(module: nn.Module) -> str | None:
    """Name a forward hook of a module that may change something, if there is one."""
    for kind, hooks in (("hook", module._forward_hooks), ("pre-hook", module._forward_pre_hooks)):
        for hook in hooks.values():
            if getattr(hook, "__module__", None) not in _OBSERVERS:
                return f"forward {kind}: {_name(hook)}"
    return None


class Watch:
    """Notices, in a fraction of a millisecond, whether some modules are still what they were."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(modules)
        self._attributes = [vars(module) for module in self._modules]
        self._weights, self._buffers, self._children = (
            [own[kind] for own in self._attributes if own[kind]]
            for kind in ("_parameters", "_buffers", "_modules")
        )
        self._hooks = [
            own[kind] for own in self._attributes for kind in ("_forward_hooks", "_forward_pre_hooks")
        ]
        configs = {id(own["config"]): vars(own["config"]) for own in self._attributes if "config" in own}
        self._settings = [
            (own, name)
            for own in (*self._attributes, *configs.values())
            for name, value in own.items()
            if (type(value) in _COUNTS and not name.startswith("_")) or name in _FIXED
        ]
        self._before, self._kept = self._state()

    def changed(self) -> bool:
        """Whether anything is not as it was: tensors that lie elsewhere, other modules, hooks, attributes.
        Values written in place into weights are no change.
        """
        return self._state()[0] != self._before

    def _state(self) -> tuple[list[Any], list[Tensor]]:
        """Return all that counts, and the tensors in it, to be kept lest others get their ids."""
        tensors = [
            tensor
            for held in (*self._weights, *self._buffers)
            for tensor in held.values()
            if tensor is not None
        ]
        found: list[Any] = [*map(id, tensors), *map(Tensor.data_ptr, tensors)]
        found += [tensor.dtype for tensor in tensors]
        found += map(type, self._modules)
        found += map(len, self._attributes)
        found += [id(child) for held in self._children for child in held.values()]
        found += [hook for hooks in self._hooks if hooks for hook in hooks]
        found += [own.get(name) for own, name in self._settings]
        # Tables are made of buffers: what is written into them counts.
        buffers = (tensor for held in self._buffers for tensor in held.values() if tensor is not None)
        found += [tensor._version for tensor in buffers if not tensor.is_inference()]
        return found, tensors


def _refused(path: str, why: str) -> DyrateError:
    return DyrateError(f"{path or 'the model'} {why}; {_CURE}")


def _check_part(path: str, module: Any, classes: _Classes) -> None:
    cls = type(module)
    if cls not in classes:
        raise _refused(path, f"is a {_name(cls)}, not a plain {classes[0].__name__}")
    if hook := changing_hook(module):
        raise _refused(path, f"has a {hook}")
    own = vars(module)
    for name in own:
        if callable(getattr(cls, name, None)) and name not in _ELSEWHERE:
            raise _refused(path, f"has a {name} of its own")
    for name, value in _FIXED.items():
        if own.get(name, value) != value:
            raise _refused(path, f"has {name}={own[name]!r}, not {value!r}")
    if module.training and own.get("attention_dropout"):
        raise _refused(path, f"has attention_dropout={own['attention_dropout']} in train mode (model.eval())")
    held = {name for name, value in module.named_parameters(recurse=False)} - {"bias", "image_newline"}
    if held != ({"weight"} if cls in _WEIGHTED else set()):
        raise _refused(path, f"has {', '.join(sorted(held)) or 'no weight'} for parameters")
    for name, value in module.named_parameters(recurse=False):
        _check_parameter(f"{path}.{name}", value)


def _check_parameter(path: str, value: nn.Parameter) -> None:
    if type(value) is not nn.Parameter or type(value.data) is not Tensor:
        raise _refused(path, f"is a {_name(type(value.data))}, not a plain tensor")
    if not (value.is_floating_point() and value.is_contiguous()):
        raise _refused(path, f"is of {value.dtype}, strides {value.stride()}: no contiguous floats")


def _check_together(parts: dict[str, Any]) -> None:
    """Raise `DyrateError` for parts that are plain, but do not go with each other."""
    text = parts[_TEXT]
    if len(text.layers) != text.config.num_hidden_layers:
        wanted = text.config.num_hidden_layers
        raise _refused(f"{_TEXT}.layers", f"are {len(text.layers)}, where the config says {wanted}")
    for index, layer in enumerate(text.layers):
        path, attention = f"{_TEXT}.layers.{index}", layer.self_attn
        if attention.layer_idx != index:
            raise _refused(path, f"takes itself for layer {attention.layer_idx}")
        biases = {part: getattr(attention, f"{part}_proj").bias is not None for part in "qkv"}
        if len(set(biases.values())) > 1:
            raise _refused(f"{path}.self_attn", f"has biases in some of q, k and v only: {biases}")
        for name, part in layer.mlp.named_children():
            if getattr(part, "bias", None) is not None:
                raise _refused(f"{path}.mlp.{name}", "has a bias, which the engine does not add")
    first = text.embed_tokens.weight
    owners = {id(first): f"{_TEXT}.embed_tokens.weight"}
    eps = text.norm.variance_epsilon
    for path, module in parts.items():
        if getattr(module, "variance_epsilon", eps) != eps:
            raise _refused(path, f"has variance_epsilon={module.variance_epsilon}, the last norm {eps}")
        for name, value in module.named_parameters(recurse=False):
            own = f"{path}.{name}"
            if (value.dtype, value.device) != (first.dtype, first.device):
                at = f"{value.dtype} on {value.device}, the embeddings {first.dtype} on {first.device}"
                raise _refused(own, f"is {at}")
            tied = path == "lm_head" and value is first
            if owners.setdefault(id(value), own) != own and not tied:
                raise _refused(own, f"is {owners[id(value)]} as well")


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
