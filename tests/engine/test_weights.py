"""What a model's weights say is followed, also where they change between two calls."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import QuickGELUActivation

from dyrate.engine.engine import Engine
from dyrate.errors import DyrateError
from dyrate.methods.fastv import FastV
from dyrate.methods.none import NoReduction
from tests.engine.changes import LAYER, LAYERS, TEXT, Change, biased, fresh, given, louder, noise, replaced
from tests.tiny import tiny_inputs, tiny_llava

ROWS = {"rows": [7, 3, 11], "images": [1, 2, 0]}


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
    engine.generate(FastV(layer=2, rate=0.5), inputs, max_new_tokens=2)
    tower = engine._encoder._watch
    for _ in range(3):
        engine.generate(FastV(layer=2, rate=0.5), inputs, max_new_tokens=2)
        assert engine._encoder._watch is tower
        with FastV(layer=2, rate=0.5)(model):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        read.append(engine._backbone is backbone)
    assert read == [True] * 3


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "linear", "factor": 2.0}, None),
        ({"rope_type": "dynamic", "factor": 2.0}, "rotary embeddings of type 'dynamic'"),
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
            "rotary embeddings of type 'longrope'",
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
