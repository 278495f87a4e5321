"""The fault matrix of the Python API: calls on a tiny model, and what must come of them. Add a line."""

# A line a call, however long.
# ruff: noqa: E501
# fmt: off
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from dyrate import Engine, FastV, NoReduction, ReductionMethod
from dyrate.registry import load_method
from tests.tiny import tiny_inputs, tiny_llava


class Scene:
    """A fresh tiny model and a left-padded batch of two rows with an image each."""

    def __init__(self) -> None:
        self.model: Any = tiny_llava()
        self.inputs: dict[str, Any] = tiny_inputs([7, 3])

    def generate(self, method: ReductionMethod | None = None, **options: Any) -> Any:
        """By transformers, under a method."""
        with (method or FastV(layer=2))(self.model):
            return self.model.generate(**{**self.inputs, "max_new_tokens": 3, "do_sample": False, **options})

    def forward(self, **options: Any) -> Any:
        """One forward under FastV."""
        with torch.no_grad(), FastV(layer=2)(self.model):
            return self.model(**{**self.inputs, **options})

    def engine(self, **options: Any) -> Any:
        """By the engine."""
        inputs = {**self.inputs, **options.pop("inputs", {})}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        return Engine(self.model).generate(FastV(layer=2), inputs, **{"max_new_tokens": 3, **options})

    def after_engine(self, change: Callable[[Any], Any]) -> Any:
        """By an engine that was made before the model changed; what it refuses or gives."""
        engine = Engine(self.model)
        change(self.model)
        return engine.generate(NoReduction(), self.inputs, max_new_tokens=3)

    def within(self, call: Callable[[], Any]) -> Any:
        """Something else inside a block."""
        with FastV(layer=2)(self.model):
            return call()

    def part(self, path: str) -> Any:
        return self.model.get_submodule(path)


@dataclass(frozen=True)
class Call:
    what: str
    call: Callable[[Scene], Any]
    refusal: str | None
    """Regular expression of the `DyrateError`; None: the call succeeds."""


def hooked(path: str) -> Callable[[Scene], Any]:
    """The engine after a hook that doubles what a part gives."""

    def call(scene: Scene) -> Any:
        scene.part(path).register_forward_hook(lambda module, args, output: output * 2)
        return scene.engine()

    return call


LAYER = "model.language_model.layers.3"
WORKS = None

CALLS = [
    Call("generate, as it should be", lambda s: s.generate(), WORKS),
    Call("forward, as it should be", lambda s: s.forward(), WORKS),
    Call("engine, as it should be", lambda s: s.engine(), WORKS),
    # Inputs that are half there.
    Call("generate without pixels", lambda s: s.generate(pixel_values=None), "pixel_values"),
    Call("forward without pixels", lambda s: s.forward(pixel_values=None), "pixel_values"),
    Call("engine without pixels", lambda s: s.engine(inputs={"pixel_values": None}), "pixel_values|visual features"),
    Call("one image for two rows", lambda s: s.generate(pixel_values=s.inputs["pixel_values"][:1]), "image"),
    Call("a tensor of positions to keep", lambda s: s.forward(logits_to_keep=torch.tensor([3])), "logits_to_keep"),
    Call("more logits than tokens are left", lambda s: s.forward(logits_to_keep=60), WORKS),
    Call("an empty cache", lambda s: s.generate(past_key_values=DynamicCache()), WORKS),
    Call("generate_batch", lambda s: s.within(lambda: s.model.generate_batch([[1, 2]])), "generate_batch"),
    # The engine reads weights past their modules.
    Call("a hook on the head", hooked("lm_head"), "lm_head.*hook"),
    Call("a hook on the last norm", hooked("model.language_model.norm"), "norm.*hook"),
    Call("a hook on the embeddings", hooked("model.language_model.embed_tokens"), "embed_tokens.*hook"),
    Call("a hook inside a layer", hooked(f"{LAYER}.mlp"), r"layers\.3\.mlp.*hook"),
    Call("another class of head", lambda s: (setattr(s.model, "lm_head", nn.Sequential(s.model.lm_head)), s.engine()), "lm_head"),
    Call("PEFT's layer", lambda s: (setattr(s.part(f"{LAYER}.mlp"), "up_proj", nn.Sequential(s.part(f"{LAYER}.mlp.up_proj"))), s.engine()), r"layers\.3\.mlp\.up_proj"),
    Call("weights loaded by assignment", lambda s: s.after_engine(lambda m: m.load_state_dict(m.state_dict(), assign=True)), WORKS),
    Call("another number of tokens", lambda s: s.after_engine(lambda m: m.resize_token_embeddings(80)), WORKS),
    Call("a left-padded batch without its mask", lambda s: s.engine(inputs={"attention_mask": None}), WORKS),
    Call("inputs that nobody reads", lambda s: s.engine(inputs={"token_type_ids": s.inputs["input_ids"]}), "token_type_ids"),
    Call("a penalty of the model's own", lambda s: (setattr(s.model.generation_config, "repetition_penalty", 1.5), s.engine()), "repetition_penalty=1.5"),
    # What else happens inside blocks.
    Call("a copy of the model", lambda s: s.within(lambda: deepcopy(s.model)), "copied or pickled"),
    Call("another attention", lambda s: s.within(lambda: s.model.set_attn_implementation("sdpa")), "attention implementation"),
    Call("all attention matrices", lambda s: (setattr(s.model.config, "_output_attentions", True), s.forward()), "output_attentions"),
    Call("a mask of another kind", lambda s: s.forward(attention_mask={"full_attention": None}), "attention_mask is a dict"),
    Call("an id that is no token", lambda s: s.forward(input_ids=s.inputs["input_ids"] + 60), "vocabulary"),
    Call("a block within a block", lambda s: s.within(lambda: s.generate()), "nested"),
    # Methods.
    Call("a method by its name", lambda s: load_method("fastv"), WORKS),
    Call("squares that do not divide the grid", lambda s: s.generate(load_method({"name": "average_pool", "size": 3})), "3 x 3 tokens do not divide the image's grid of 4 x 4; size must divide 4"),
    Call("a share of the tower's depth that is no layer", lambda s: s.generate(load_method({"name": "hiprune", "object_layer": 0.1})), "2 layers, and no layer at 0.1 of its depth"),
    Call("a layer that the model has not", lambda s: s.generate(FastV(layer=99)), "no layer 9[89]"),
]
