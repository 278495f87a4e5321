"""Weights are read past their modules: whatever makes a module more than its weights is refused, whether it
comes before the engine or after it."""

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_hooks
from torch.nn.utils import parametrizations, prune

from dyrate.engine.engine import Engine
from dyrate.errors import DyrateError
from dyrate.methods.none import NoReduction
from tests.engine.changes import (
    LAYER,
    LAYERS,
    TEXT,
    Adapter,
    Change,
    Tagged,
    biased,
    dropping,
    fresh,
    given,
    hooked,
    hooked_before,
    louder,
    one_layer_less,
    overridden,
    replaced,
    shared,
    subclassed,
    transposed,
)
from tests.tiny import tiny_inputs, tiny_llava

PATHS = [
    "model",
    TEXT,
    f"{TEXT}.embed_tokens",
    LAYER,
    f"{LAYER}.self_attn",
    f"{LAYER}.self_attn.q_proj",
    f"{LAYER}.self_attn.o_proj",
    f"{LAYER}.mlp",
    f"{LAYER}.mlp.act_fn",
    f"{LAYER}.mlp.down_proj",
    f"{LAYER}.input_layernorm",
    f"{LAYER}.post_attention_layernorm",
    f"{TEXT}.norm",
    f"{TEXT}.rotary_emb",
    "lm_head",
]
REFUSED: dict[str, tuple[str, Change]] = {
    **{f"hook on {path}": (f"^{path} has a forward hook", hooked(path)) for path in PATHS},
    **{f"pre-hook on {path}": (f"^{path} has a forward pre-hook", hooked_before(path)) for path in PATHS},
    **{f"subclass of {path}": (f"^{path} is a .*Mine, not a plain", subclassed(path)) for path in PATHS},
    **{f"override of {path}": (f"^{path} has a forward of its own", overridden(path)) for path in PATHS},
    "hook on the model": ("^the model has a forward hook", hooked("")),
    "subclass of the model": ("no model family adapter for Mine", subclassed("")),
    "placeholders": ("^model has a get_placeholder_mask", overridden("model", "get_placeholder_mask")),
    "image features": ("^model has a get_image_features", overridden("model", "get_image_features")),
    "inputs": (
        "^the model has a prepare_inputs_for_generation",
        overridden("", "prepare_inputs_for_generation"),
    ),
    **{
        f"adapter on {path}": (f"^{path} is a .*Adapter", replaced(path, Adapter))
        for path in (f"{TEXT}.embed_tokens", f"{LAYER}.mlp.up_proj", "lm_head")
    },
    "weight norm": (
        "^lm_head is a .*Parametrized",
        lambda model: parametrizations.weight_norm(model.lm_head),
    ),
    "pruning": (
        f"^{LAYER}.mlp.up_proj has a forward pre-hook",
        lambda model: prune.l1_unstructured(model.get_submodule(f"{LAYER}.mlp.up_proj"), "weight", 0.5),
    ),
    "other norm": (
        f"^{TEXT}.norm is a .*LayerNorm, not a plain LlamaRMSNorm",
        replaced(f"{TEXT}.norm", lambda _: nn.LayerNorm(32)),
    ),
    "other activation": (
        f"^{LAYER}.mlp.act_fn is a .*GELU, not a plain SiLU",
        replaced(f"{LAYER}.mlp.act_fn", lambda _: nn.GELU()),
    ),
    "norm of queries": (
        f"^{LAYER}.self_attn.q_norm is a .*LayerNorm that no LlamaModel",
        lambda model: model.get_submodule(f"{LAYER}.self_attn").add_module("q_norm", nn.LayerNorm(8)),
    ),
    "another norm in the layer": (
        f"^{LAYER}.pre_feedforward_layernorm is a",
        lambda model: model.get_submodule(LAYER).add_module("pre_feedforward_layernorm", nn.LayerNorm(32)),
    ),
    **{
        f"bias of {part}": (f"^{LAYER}.mlp.{part} has a bias", biased(f"{LAYER}.mlp.{part}"))
        for part in ("gate_proj", "up_proj", "down_proj")
    },
    "bias of k": (f"^{LAYER}.self_attn has biases in some of q, k", biased(f"{LAYER}.self_attn.k_proj")),
    "eps of one": (
        f"^{LAYER}.post_attention_layernorm has variance_epsilon=0.1",
        given(f"{LAYER}.post_attention_layernorm", variance_epsilon=0.1),
    ),
    "norms of embeddings": (
        f"^{TEXT}.embed_tokens has max_norm=0.5",
        given(f"{TEXT}.embed_tokens", max_norm=0.5),
    ),
    "both ways": (f"^{LAYER}.self_attn has is_causal=False", given(f"{LAYER}.self_attn", is_causal=False)),
    "dropout": (f"^{LAYER}.self_attn has attention_dropout=0.1 in train mode", dropping),
    "layer removed": (f"^{TEXT}.layers.2 takes itself for layer 3", one_layer_less),
    "config of fewer layers": (
        f"^{TEXT}.layers are 4, where the config says 3",
        lambda model: setattr(model.config.text_config, "num_hidden_layers", 3),
    ),
    "queries are keys": (
        f"^{LAYER}.self_attn.k_proj.weight is {LAYER}.self_attn.q_proj.weight as well",
        shared(f"{LAYER}.self_attn.k_proj", f"{LAYER}.self_attn.q_proj"),
    ),
    "layers share": (
        f"^{LAYER}.self_attn.q_proj.weight is {TEXT}.layers.2.self_attn.q_proj.weight as well",
        shared(f"{LAYER}.self_attn.q_proj", f"{TEXT}.layers.2.self_attn.q_proj"),
    ),
    "other dtype": (
        f"^{TEXT}.norm.weight is torch.float64 on cpu, the embeddings torch.float32",
        lambda model: model.get_submodule(f"{TEXT}.norm").double(),
    ),
    "strided": ("^lm_head.weight is of .* no contiguous floats", transposed("lm_head")),
    "tensor of a kind": (
        "^lm_head.weight is a .*Tagged",
        lambda model: given(
            "lm_head", weight=nn.Parameter(model.lm_head.weight.detach().as_subclass(Tagged))
        )(model),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_its_weights_is_refused(name: str) -> None:
    model, inputs = fresh(), tiny_inputs()
    message, change = REFUSED[name]
    engine = Engine(model)
    change(model)
    for _ in range(2):  # it does not get used to it
        with pytest.raises(DyrateError, match=message):
            engine.generate(NoReduction(), inputs, max_new_tokens=2)
    with pytest.raises(DyrateError, match=message):
        Engine(model)


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("part", ["lm_head", f"{TEXT}.layers.1.mlp.up_proj", f"{TEXT}.norm"])
def test_every_text_model_is_looked_at(text: str, part: str) -> None:
    model = tiny_llava(text=text, num_layers=LAYERS)
    engine = Engine(model)
    model.get_submodule(part).register_forward_hook(louder)
    with pytest.raises(DyrateError, match=f"^{part} has a forward hook"):
        engine.generate(NoReduction(), tiny_inputs(), max_new_tokens=2)


@pytest.mark.parametrize("kind", ["hook", "pre_hook"])
def test_hooks_on_all_modules_are_refused_until_they_go(kind: str) -> None:
    engine, inputs = Engine(fresh()), tiny_inputs()
    handle = getattr(torch_hooks, f"register_module_forward_{kind}")(lambda *call: None)
    try:
        with pytest.raises(DyrateError, match=r"forward hook .* is on every module"):
            engine.generate(NoReduction(), inputs, max_new_tokens=2)
    finally:
        handle.remove()
    engine.generate(NoReduction(), inputs, max_new_tokens=2)


def test_autocast_is_refused() -> None:
    engine = Engine(fresh())
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(DyrateError, match="autocast"):
        engine.generate(NoReduction(), tiny_inputs(), max_new_tokens=2)
