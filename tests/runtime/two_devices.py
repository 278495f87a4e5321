"""A second device where there is none: tensors that say they are elsewhere, hold numbers on the CPU, and
refuse, as a GPU does, to be mixed with those that are here. All of a process knows of it from here on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, library, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend()
HERE, THERE = torch.device("cpu"), torch.device("privateuseone:0")
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(Tensor):
    """A tensor on the device `THERE`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=THERE
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"Elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Factories(TorchDispatchMode):
    """Lets tensors be made there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [value for value in given if isinstance(value, Elsewhere)]
    here = [value for value in given if not isinstance(value, Elsewhere) and value.dim()]
    if there and here and func not in _MOVES:
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device: {HERE} and {THERE}")
    target = HERE if func in _MOVES[1:] and not isinstance(args[0], Elsewhere) else THERE if there else HERE
    if kwargs.get("device") is not None:
        target, kwargs = torch.device(kwargs["device"]), {**kwargs, "device": HERE}
    wrappers = {id(value.inner): value for value in there}
    plain = tree_map_only(Elsewhere, lambda value: value.inner, (args, kwargs))
    found = func(*plain[0], **plain[1])
    if target == HERE:
        return found
    # What was changed in place stays itself.
    return tree_map_only(
        Tensor, lambda value: wrappers[id(value)] if id(value) in wrappers else Elsewhere(value), found
    )


def spread(model: nn.Module, prefixes: tuple[str, ...]) -> nn.Module:
    """Put the modules whose names begin so there, the others here; accelerate's hooks move what they are
    given, as for a model that transformers loaded with a device_map.
    """
    for name, module in model.named_modules():
        place = THERE if name.startswith(prefixes) else HERE
        for tensors in (module._parameters, module._buffers):
            for key, value in tensors.items():
                if value is not None and place == THERE:
                    moved = Elsewhere(value.detach())
                    tensors[key] = (
                        nn.Parameter(moved, requires_grad=False) if key in module._parameters else moved
                    )
        block = name.rpartition(".")[0].endswith("layers")
        if list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)) or block:
            add_hook_to_module(module, AlignDevicesHook(execution_device=place, skip_keys="past_key_values"))
    add_hook_to_module(
        model, AlignDevicesHook(execution_device=HERE, io_same_device=True, skip_keys="past_key_values")
    )
    return model


def _empty(shape: Any, dtype: Any = None, **_: Any) -> Tensor:
    return Elsewhere(torch.empty(shape, dtype=dtype))


# `torch.tensor(..., device=)` asks the device itself.
_KERNELS = library.Library("aten", "IMPL")
_KERNELS.impl("empty.memory_format", _empty, "PrivateUse1")
_KERNELS.impl("_copy_from", lambda source, target, blocking=False: target.inner.copy_(source), "PrivateUse1")
_KERNELS.impl("empty_strided", lambda shape, strides, **options: _empty(shape, **options), "PrivateUse1")


@contextmanager
def two_devices() -> Iterator[None]:
    """Let tensors be made on either."""
    with Factories():
        yield
