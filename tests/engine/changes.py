"""What people do to a model that the engine reads past its modules."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.tiny import tiny_llava

TEXT = "model.language_model"
LAYERS = 4
LAYER = f"{TEXT}.layers.3"
Change = Callable[[Any], Any]


@cache
def original() -> Any:
    return tiny_llava(num_layers=LAYERS)


def fresh() -> Any:
    return deepcopy(original())


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * 0.25


def subclassed(path: str) -> Change:
    def change(model: Any) -> None:
        module = model.get_submodule(path)
        module.__class__ = type("Mine", (type(module),), {})

    return change


def hooked(path: str) -> Change:
    return lambda model: model.get_submodule(path).register_forward_hook(lambda *call: None)


def hooked_before(path: str) -> Change:
    return lambda model: model.get_submodule(path).register_forward_pre_hook(lambda *call: None)


def overridden(path: str, name: str = "forward") -> Change:
    def change(model: Any) -> None:
        module = model.get_submodule(path)
        setattr(module, name, getattr(module, name))

    return change


def given(path: str, **attributes: Any) -> Change:
    def change(model: Any) -> None:
        for name, value in attributes.items():
            setattr(model.get_submodule(path), name, value)

    return change


def replaced(path: str, make: Callable[[Any], nn.Module]) -> Change:
    def change(model: Any) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make(model.get_submodule(path)))

    return change


class Adapter(nn.Module):
    """Shows the weight of what it wraps, as PEFT's layers do."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.base, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return -self.base(x)


def biased(path: str) -> Change:
    return lambda model: given(path, bias=nn.Parameter(noise(len(model.get_submodule(path).weight))))(model)


def shared(path: str, of: str) -> Change:
    return lambda model: given(path, weight=model.get_submodule(of).weight)(model)


def one_layer_less(model: Any) -> None:
    del model.get_submodule(TEXT).layers[2]
    model.config.text_config.num_hidden_layers -= 1


def transposed(path: str) -> Change:
    def change(model: Any) -> None:
        weight = model.get_submodule(path).weight.detach()
        given(path, weight=nn.Parameter(weight.t().contiguous().t()))(model)

    return change


def dropping(model: Any) -> None:
    given(f"{LAYER}.self_attn", attention_dropout=0.1)(model)
    model.train()


class Tagged(Tensor):
    pass


def louder(module: nn.Module, arguments: Any, output: Any) -> Any:
    return 2 * output if isinstance(output, Tensor) else None
