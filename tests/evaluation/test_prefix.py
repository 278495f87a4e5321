"""What methods compute alike on a batch is computed once, and nobody sees a difference."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dyrate.evaluation.prefix import Prefix
from dyrate.methods.downsample import Downsample
from dyrate.methods.fastv import FastV
from dyrate.methods.tome import ToMe
from dyrate.methods.vtw import VTW
from tests.tiny import tiny_inputs, tiny_llava


@pytest.fixture
def model() -> Any:
    return tiny_llava()


@pytest.fixture
def encoded(model: Any) -> Iterator[list[torch.Size]]:
    """The shapes of the images that the encoder really ran on."""
    shapes: list[torch.Size] = []
    embeddings = model.model.vision_tower.embeddings
    hook = embeddings.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    yield shapes
    hook.remove()


def answer(model: Any, inputs: dict[str, torch.Tensor], method: Any = None) -> list[list[int]]:
    method = method or FastV(layer=1, rate=0.5)
    with method(model):
        found: list[list[int]] = model.generate(**inputs, max_new_tokens=8, do_sample=False).tolist()
    return found


def test_methods_share_what_they_compute_alike(model: Any, encoded: list[torch.Size]) -> None:
    batches = [tiny_inputs([5, 3], seed=1), tiny_inputs([5, 3], seed=2)]
    methods = [FastV(layer=2, rate=0.25), FastV(layer=1, rate=0.75), Downsample(rate=0.5), VTW(layer=1)]
    expected = [[answer(model, inputs, method) for method in methods] for inputs in batches]
    encoded.clear()
    layers = model.model.language_model.layers
    ran = [0] * len(layers)

    def count(place: int) -> Any:
        def counting(module: Any, args: Any, made: torch.Tensor) -> None:
            ran[place] += made.shape[1] > 1

        return counting

    hooks = [layer.mlp.act_fn.register_forward_hook(count(place)) for place, layer in enumerate(layers)]
    prefix = Prefix(model)
    with prefix.shared(prefix.depth):
        for inputs, answers in zip(batches, expected, strict=True):
            prefix.forget()
            assert [answer(model, inputs, method) for method in methods] == answers
    for hook in hooks:
        hook.remove()
    assert len(encoded) == 4, "two batches, each as it came and resized"
    # FastV and VTW go together through layer 0, and those that prune on entering layer 1 part there.
    assert ran[0] == 2 * 2
    assert ran[1:] == [2 * 4] * (len(layers) - 1)


def test_another_batch_type_or_way_to_encode_is_another_call(model: Any, encoded: list[torch.Size]) -> None:
    tower, pixels = model.model.vision_tower, tiny_inputs([5, 3])["pixel_values"]
    others = (pixels[:1], pixels[[1, 0]], pixels.double().float() + 1, pixels.bfloat16())
    with Prefix(model).shared(0), torch.no_grad():
        whole = tower(pixels)
        for images in others:
            tower(images)
        resized = tower(pixels, interpolate_pos_encoding=True)
        assert len(encoded) == 6
        again = tower(pixels.clone())
        assert len(encoded) == 6
    assert again.last_hidden_state is whole.last_hidden_state
    assert resized.last_hidden_state is not whole.last_hidden_state


def test_numbers_that_are_none_are_never_the_same(model: Any, encoded: list[torch.Size]) -> None:
    pixels = tiny_inputs([5, 3])["pixel_values"]
    pixels[0, 0, 0, 0] = float("nan")
    with Prefix(model).shared(0), torch.no_grad():
        for _ in range(2):
            model.model.vision_tower(pixels.clone())
    assert len(encoded) == 2


def test_what_callers_add_is_not_kept(model: Any) -> None:
    pixels = tiny_inputs([5, 3])["pixel_values"]
    with Prefix(model).shared(0), torch.no_grad():
        for _ in range(3):
            made = model.model.vision_tower(pixels)
            assert made.pooler_output.shape[0] == 2
            made.pooler_output = "something else"


def test_the_model_is_left_as_it_was(model: Any, encoded: list[torch.Size]) -> None:
    inputs = tiny_inputs([5, 3])
    with pytest.raises(KeyError), Prefix(model).shared(1):
        answer(model, {key: inputs[key] for key in ("input_ids", "pixel_values", "nothing")})
    assert not [name for name, part in model.named_modules() if "forward" in vars(part)]
    encoded.clear()
    answer(model, inputs)
    answer(model, inputs)
    assert len(encoded) == 2


def test_a_tower_whose_layers_are_changed_is_not_shared(model: Any) -> None:
    inputs, tome = tiny_inputs([5, 3]), ToMe(merged=8)
    expected = [answer(model, inputs, method) for method in (VTW(layer=5), tome)]
    with Prefix(model).shared(0):
        for methods in ((VTW(layer=5), tome), (tome, VTW(layer=5))):
            found = {method: answer(model, inputs, method) for method in methods}
            assert [found[VTW(layer=5)], found[tome]] == expected
    assert expected[0] != expected[1]
