"""The tower's layers, grids, questions, the connector, changes inside the tower."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softmax
from transformers import SiglipVisionConfig

from dyrate import Installation, Needs, NoReduction, PrefillView, ReductionMethod, load_method
from dyrate.errors import DyrateError
from dyrate.installation import TowerTokens
from dyrate.needs import tower_layer
from dyrate.vision import _homes
from tests.runtime.example_rules import tower_layer as rows_of_tower
from tests.runtime.looking import ROWS, seen
from tests.runtime.method_table import EXAMPLES
from tests.runtime.test_towers import VISION, model_with
from tests.runtime.test_towers import inputs as siglip_inputs
from tests.tiny import row_of, tiny_inputs, tiny_llava


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(kv_heads=2)


def test_the_tower_is_kept_as_the_reference_has_it(model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    needs = Needs(
        prefill=(0,),
        tower={
            -2: ("states", "keys", "class_attention", "received_attention"),
            1: ("states",),
            0.4: ("joint_class_attention",),
        },
    )

    def look(view: PrefillView) -> dict[str, Tensor]:
        tower = view.tower(-2)
        names = ("states", "class_states", "keys", "class_attention", "received_attention")
        return {
            **{name: getattr(tower, name) for name in names},
            "by its number": view.tower(0).states,
            "joint": view.tower(0.4).joint_class_attention,
        }

    found = seen(needs, look, model, inputs)
    with torch.no_grad():
        for row in (0, 1, 3):
            pixels = row_of(inputs, row)["pixel_values"]
            attention, keys, states = rows_of_tower(model, pixels)
            for name, expected in (
                ("states", states),
                ("by its number", states),
                ("keys", keys),
                ("class_attention", attention.T),
            ):
                held = found[name][row]
                held = held[:, : len(states)] if name == "class_attention" else held[: len(states)]
                torch.testing.assert_close(held, expected, atol=1e-5, rtol=0)
            outputs = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            torch.testing.assert_close(found["class_states"][row][: len(pixels)], outputs[1][:, 0])
            block = model.model.vision_tower.encoder.layers[0]
            normed = block.layer_norm1(outputs[0])
            query, key = (
                part(normed).view(len(pixels), -1, 2, 8).transpose(1, 2)
                for part in (block.self_attn.q_proj, block.self_attn.k_proj)
            )
            received = softmax(query @ key.transpose(2, 3) / 8**0.5, dim=-1).mean(2)[:, :, 1:]
            expected = received.transpose(0, 1).flatten(1)
            torch.testing.assert_close(found["received_attention"][row][:, : len(states)], expected)
            query, key = (
                part(normed) for part in (block.self_attn.q_proj, block.self_attn.k_proj)
            )  # one head of width 16
            joint = softmax(query[:, :1] @ key.transpose(1, 2) / 16**0.5, dim=-1)[:, 0, 1:]
            torch.testing.assert_close(found["joint"][row][: len(states)], joint.flatten())
    assert (found["states"][2] == 0).all()


TOWERS = {
    "no such layer": (Needs(prefill=(0,), tower={-3: ("states",)}), "has 2 layers, and no layer -3"),
    "no such share": (
        Needs(prefill=(0,), tower={0.2: ("states",)}),
        "has 2 layers, and no layer at 0.2 of its depth",
    ),
    "not that part": (
        Needs(prefill=(0,), tower={-2: ("keys",)}),
        "asks for keys of layer 0 of the vision tower",
    ),
}


@pytest.mark.parametrize("case", TOWERS)
def test_a_tower_without_it_is_refused(case: str, model: Any) -> None:
    needs, message = TOWERS[case]
    with pytest.raises(DyrateError, match=re.escape(message)):
        seen(needs, lambda view: view.tower(-2).states, model, tiny_inputs())


@pytest.mark.parametrize(
    ("layer", "depth", "index"),
    [
        *[(0, 24, 0), (23, 24, 23), (24, 24, None), (-1, 24, 23), (-24, 24, 0), (-25, 24, None)],
        *[(0.375, 24, 8), (0.375, 32, 11), (0.375, 2, 0), (0.5, 24, 11), (1.0, 24, 23), (0.0, 24, None)],
    ],
)
def test_a_float_is_a_share_of_the_towers_depth(layer: float, depth: int, index: int | None) -> None:
    assert tower_layer(layer, depth) == index


def test_a_tower_without_a_class_token_says_so() -> None:
    siglip = model_with(SiglipVisionConfig(**VISION))
    states = seen(
        Needs(prefill=(0,), tower={-1: ("states",)}),
        lambda view: view.tower(-1).states,
        siglip,
        siglip_inputs(2),
    )
    assert states.shape == (2, 16, 16)
    for part, look in (
        ("class_attention", lambda view: view.tower(-1).class_attention),
        ("joint_class_attention", lambda view: view.tower(-1).joint_class_attention),
        ("states", lambda view: view.tower(-1).class_states),
    ):
        with pytest.raises(
            DyrateError, match=r"vision tower of type 'siglip_vision_model' has no(ne| class token)"
        ):
            seen(Needs(prefill=(0,), tower={-1: (part,)}), look, siglip, siglip_inputs(1))


def test_the_grid_says_where_each_token_lies(model: Any) -> None:
    grid = seen(Needs(prefill=(0,)), lambda view: view.grid, model, tiny_inputs(**ROWS))
    places = [[row, column] for row in range(4) for column in range(4)]
    missing = [[-1, -1, -1]] * 16
    first, second = ([[image, *place] for place in places] for image in (0, 1))
    assert grid.tolist() == [first + missing, first + second, missing * 2, first + missing]


@pytest.mark.parametrize(
    ("grid", "seen", "features", "extra", "places"),
    [
        ((4, 4), (4, 4), 16, 0, list(range(16))),
        ((4, 4), (2, 2), 4, 0, [5, 7, 13, 15]),
        ((4, 4), (4, 4), 4, 0, [5, 7, 13, 15]),
        ((4, 4), (2, 2), 5, 1, [0, 6, 8, 14, 16]),
        ((2, 8), (2, 8), 4, 0, [9, 11, 13, 15]),
        ((4, 4), (4, 4), 3, 0, [2, 8, 13]),
        ((3, 5), (3, 5), 15, 0, list(range(15))),
    ],
)
def test_fewer_features_stand_in_different_places_in_raster_order(
    grid: tuple[int, int], seen: tuple[int, int], features: int, extra: int, places: list[int]
) -> None:
    assert _homes(grid, seen, features, extra).tolist() == places


@pytest.mark.parametrize("layer", [-1, 0, [-2, -1]])
def test_states_that_the_projector_does_not_read_are_not_projected(layer: Any) -> None:
    method = load_method(
        {"name": f"{EXAMPLES}/merged_tokens.py:MergedTokens", "dominant": 5, "contextual": 3}
    )
    model = tiny_llava()
    read = model.config.vision_config.num_hidden_layers - 1  # as hidden states are counted
    model.config.vision_feature_layer = read
    inputs = tiny_inputs([7])
    with method(model):  # -2 by another number
        model.generate(**inputs, max_new_tokens=2)
    with pytest.raises(DyrateError, match="is not the model's own"), method(model):
        model.generate(**inputs, max_new_tokens=2, vision_feature_layer=layer)
    if not isinstance(layer, list):  # the projector is too narrow for two
        model.config.vision_feature_layer = layer
        with pytest.raises(DyrateError, match="projector reads another: vision_feature_layer"), method(model):
            model.generate(**inputs, max_new_tokens=2)


@dataclass(frozen=True)
class Installing(ReductionMethod):
    """Doubles the projected features, resizes images to their own size, gets into the tower's layers, and
    embeds a token.
    """

    fails: bool = False

    def needs(self, depth: int) -> Needs:
        return Needs(compression_tokens=(70,))

    def install(self, parts: Installation) -> None:
        parts.replace_connector(self._doubled)
        parts.resize_images(lambda images: images * 1)
        parts.embed_tokens({70: torch.ones(32)})
        parts.change_tower(lambda tokens: tokens, proportional=True)

    def _doubled(self, features: Tensor, project: Any) -> Tensor:
        if self.fails:
            raise OSError("no more")
        return 2 * project(features)


def parts_of(model: Any) -> list[Any]:
    modules = list(model.modules())
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in modules]
    return [hooks, [sorted(vars(part)) for part in modules], model.config.text_config._attn_implementation]


@pytest.mark.parametrize("fails", [False, True])
def test_installed_parts_leave_with_the_block(fails: bool) -> None:
    model, inputs = tiny_llava(), tiny_inputs([7])
    model.model.vision_tower(
        inputs["pixel_values"], output_hidden_states=True
    )  # transformers installs its own hooks
    stock, before = model(**inputs).logits, parts_of(model)
    with_token = {**inputs, "input_ids": inputs["input_ids"].clone()}
    with_token["input_ids"][0, -2] = 70
    try:
        with torch.no_grad(), Installing(fails=fails)(model):
            assert not torch.equal(model(**with_token).logits[:, -1], stock[:, -1])
    except OSError:
        assert fails
    assert parts_of(model) == before
    assert torch.equal(model(**inputs).logits, stock)
    with pytest.raises(DyrateError, match="input_ids holds 70"), NoReduction()(model):
        model(**with_token)


def test_a_connector_that_makes_more_features_is_refused(model: Any) -> None:
    @dataclass(frozen=True)
    class Twice(ReductionMethod):
        def install(self, parts: Installation) -> None:
            parts.replace_connector(lambda features, project: project(features).repeat(1, 2, 1))

    with (
        pytest.raises(DyrateError, match=r"connector returned visual features of shape \(1, 32, 32\)"),
        Twice()(model),
    ):
        model(**tiny_inputs())


@dataclass(frozen=True)
class InTheTower(ReductionMethod):
    """Puts what the function says into the tower's layers."""

    change: ClassVar[Any]

    def needs(self, depth: int) -> Needs:
        return Needs(positions="contiguous")

    def install(self, parts: Installation) -> None:
        parts.change_tower(type(self).change)


def in_the_tower(change: Any) -> ReductionMethod:
    return type("InTheTower", (InTheTower,), {"change": staticmethod(change)})()


def picked(tokens: TowerTokens, some: Any) -> TowerTokens:
    left = {name: getattr(tokens, name)[:, some] for name in ("states", "sizes", "origins")}
    return replace(tokens, **left)


def every_second(tokens: TowerTokens) -> TowerTokens:
    """The class token and every second patch, of the first layer."""
    return picked(tokens, slice(0, None, 2 if tokens.states.shape[1] == 17 else 1))


def backwards(tokens: TowerTokens) -> TowerTokens:
    """The class token, then the patches in reverse order."""
    return picked(tokens, [0, *range(tokens.states.shape[1] - 1, 0, -1)])


def test_features_stand_where_their_tokens_stood_at_first(model: Any) -> None:
    inputs = tiny_inputs(**ROWS)
    with torch.no_grad(), in_the_tower(every_second)(model) as run:
        model(**inputs)
    # Token 0 is the class token: of the patches 0..15 those of odd index stay.
    odd = list(range(1, 32, 2))
    assert [row.tolist() for row in run.kept[0]] == [odd[:8], odd, [], odd[:8]]
    # The order in which a tower has its patches makes no difference, to them or to the language model.
    stock = model(**inputs).logits[:, -1]
    with torch.no_grad(), in_the_tower(backwards)(model) as run:
        torch.testing.assert_close(model(**inputs).logits[:, -1], stock, atol=1e-4, rtol=0)
    assert [len(row) for row in run.kept[0]] == [16, 32, 0, 16]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda states: states.repeat(1, 2, 1), "of shapes (1, 34, 16), (1, 17)"),
        (lambda states: states[:, :5], "(1, 5, 16), (1, 17), (1, 17) for 1 images of 17 tokens"),
        (lambda states: states[..., 0], "of shapes (1, 17), (1, 17), (1, 17)"),
    ],
)
def test_a_change_of_the_tower_to_something_else_is_refused(change: Any, message: str, model: Any) -> None:
    method = in_the_tower(lambda tokens: replace(tokens, states=change(tokens.states)))
    with pytest.raises(DyrateError, match=re.escape(message)), method(model):
        model(**tiny_inputs())


def test_the_ledger_counts_what_a_changed_tower_is_spared(model: Any) -> None:
    with torch.no_grad(), in_the_tower(every_second)(model) as run:
        model(**tiny_inputs([7]))
    attention, halves, width = 4 * 16 * 16, 2 * 16 * 32, 2 * 16
    first = (17 - 9) * halves  # its attention still had all of them
    second = (17 - 9) * (attention + halves) + (17**2 - 9**2) * width
    assert run.encoder_saved == (first + second, 8)
