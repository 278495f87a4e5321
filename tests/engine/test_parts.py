"""Weights are read past their modules: whatever makes a module more than its weights is refused, whether it
comes before the engine or after it; other weights are read anew."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_hooks
from torch.nn.utils import parametrizations, prune
from transformers.activations import QuickGELUActivation

from dyrate.engine.engine import Engine
from dyrate.errors import DyrateError
from dyrate.methods.fastv import FastV
from dyrate.methods.none import NoReduction
from tests.tiny import tiny_inputs, tiny_llava

ROWS = {"rows": [7, 3, 11], "images": [1, 2, 0]}
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


def in_place(path: str) -> Change:
    return lambda model: model.get_submodule(path).weight.data.mul_(-0.7)


def other_data(path: str) -> Change:
    def change(model: Any) -> None:
        weight = model.get_submodule(path).weight
        weight.data = noise(*weight.shape)

    return change


def other_parameter(path: str) -> Change:
    return lambda model: given(path, weight=nn.Parameter(noise(*model.get_submodule(path).weight.shape)))(
        model
    )


def attention_biases(model: Any) -> None:
    for layer in range(LAYERS):
        for part in "qkvo":
            biased(f"{TEXT}.layers.{layer}.self_attn.{part}_proj")(model)


def tied(model: Any) -> None:
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()


def louder(module: nn.Module, arguments: Any, output: Any) -> Any:
    return 2 * output if isinstance(output, Tensor) else None


def louder_activations(model: Any) -> None:
    for part in model.model.vision_tower.modules():
        if isinstance(part, QuickGELUActivation):
            part.__class__ = type("Louder", (QuickGELUActivation,), {"forward": lambda self, x: 2 * x})


WEIGHTS = ["lm_head", f"{TEXT}.embed_tokens", f"{TEXT}.norm", *(f"{LAYER}.{part}" for part in (
    "input_layernorm", "mlp.up_proj", "mlp.down_proj", "self_attn.k_proj", "self_attn.o_proj",
))]  # fmt: skip
TOWER = "model.vision_tower.encoder.layers.0"
FOLLOWED: dict[str, Change] = {
    **{f"in place: {path}": in_place(path) for path in WEIGHTS},
    **{f"other data: {path}": other_data(path) for path in WEIGHTS},
    **{f"other parameter: {path}": other_parameter(path) for path in WEIGHTS},
    "other module": replaced(f"{LAYER}.mlp.up_proj", lambda _: nn.Linear(32, 64, bias=False)),
    "other state": lambda model: model.load_state_dict(tiny_llava(seed=3, num_layers=LAYERS).state_dict()),
    "other state, assigned": lambda model: model.load_state_dict(
        tiny_llava(seed=3, num_layers=LAYERS).state_dict(), assign=True
    ),
    "other dtype": lambda model: model.double(),
    "other dtype and back": lambda model: model.half().float(),
    "more tokens": lambda model: model.resize_token_embeddings(80),
    "tied": tied,
    "biases of attention": attention_biases,
    "bias of the head": biased("lm_head"),
    "scaling": given(f"{LAYER}.self_attn", scaling=2.0),
    "frequencies, in place": lambda model: model.get_submodule(f"{TEXT}.rotary_emb").inv_freq.mul_(0.5),
    "scale of angles": given(f"{TEXT}.rotary_emb", attention_scaling=2.0),
    "train mode": lambda model: model.train(),
    "hidden states once": lambda model: model(**tiny_inputs(), output_hidden_states=True),
    "hook on the tower": lambda model: model.get_submodule(TOWER).register_forward_hook(louder),
    "hook on the projector": lambda model: model.get_submodule(
        "model.multi_modal_projector"
    ).register_forward_hook(louder),
    "weight of the tower": other_parameter(f"{TOWER}.mlp.fc1"),
    "activations of the tower": louder_activations,
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_the_weights_say_is_followed(name: str) -> None:
    model, inputs = fresh(), tiny_inputs(**ROWS)
    engine = Engine(model)
    engine.generate(NoReduction(), inputs, max_new_tokens=2)
    torch.manual_seed(0)
    with torch.no_grad():
        FOLLOWED[name](model)
    with FastV(layer=2, rate=0.5)(model):
        expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    for made in (engine, Engine(model)):
        found, _ = made.generate(FastV(layer=2, rate=0.5), inputs, max_new_tokens=6)
        assert found.tolist() == expected.tolist()


def test_a_model_that_stays_is_not_read_anew() -> None:
    model = fresh()
    engine, inputs = Engine(model), tiny_inputs()
    read, backbone = [], engine._backbone
    for _ in range(3):
        engine.generate(FastV(layer=2, rate=0.5), inputs, max_new_tokens=2)
        with FastV(layer=2, rate=0.5)(model):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        read.append(engine._backbone is backbone)
    assert read == [True] * 3


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


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "linear", "factor": 2.0}, None),
        ({"rope_type": "dynamic", "factor": 2.0}, None),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}, None),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            None,
        ),
        (
            {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "factor": 8.0,
                "original_max_position_embeddings": 64,
            },
            "rope_type 'longrope' turns a token by more or less in a longer prompt",
        ),
        (
            {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5},
            "turn 4 of the 8 numbers of a head",
        ),
    ],
    ids=lambda value: value.get("rope_type") if isinstance(value, dict) else None,
)
def test_kinds_of_rotary_positions(rope: dict[str, Any], message: str | None) -> None:
    model, inputs = fresh(), tiny_inputs(**ROWS)
    text = model.get_submodule(TEXT)
    text.config.rope_parameters = {"rope_theta": 10000.0, **rope}
    text.rotary_emb = type(text.rotary_emb)(text.config)
    if message:
        with pytest.raises(DyrateError, match=message):
            Engine(model)
        return
    expected = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    assert Engine(model).generate(NoReduction(), inputs, max_new_tokens=9)[0].tolist() == expected.tolist()
