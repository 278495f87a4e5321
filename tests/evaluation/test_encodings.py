"""A batch of images is encoded once, and nobody sees a difference."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dyrate.evaluation.encodings import Encodings
from dyrate.methods.downsample import Downsample
from dyrate.methods.fastv import FastV
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


def test_methods_share_the_encoding_of_a_batch(model: Any, encoded: list[torch.Size]) -> None:
    inputs, others = tiny_inputs([5, 3], seed=1), tiny_inputs([5, 3], seed=2)
    methods = [FastV(layer=1, rate=0.25), FastV(layer=2, rate=0.75), Downsample(rate=0.5)]
    expected = [answer(model, given, method) for method in methods for given in (inputs, others)]
    encoded.clear()
    with Encodings(model).reused():
        found = [answer(model, given, method) for method in methods for given in (inputs, others)]
        again = [answer(model, given, method) for method in methods for given in (inputs, others)]
    assert found == expected == again
    assert len(encoded) == 4, "two batches, each as it came and resized"


def test_another_batch_type_or_way_to_encode_is_another_call(model: Any, encoded: list[torch.Size]) -> None:
    tower, pixels = model.model.vision_tower, tiny_inputs([5, 3])["pixel_values"]
    with Encodings(model).reused(), torch.no_grad():
        for images in (pixels, pixels[:1], pixels[[1, 0]], pixels.double().float() + 1):
            tower(images)
        tower(pixels, interpolate_pos_encoding=True)
        assert len(encoded) == 5
        whole, part = tower(pixels), tower(pixels[:1])
        assert len(encoded) == 5
    torch.testing.assert_close(whole.last_hidden_state[:1], part.last_hidden_state)


def test_what_cannot_be_compared_is_encoded_each_time(model: Any, encoded: list[torch.Size]) -> None:
    pixels = tiny_inputs([5, 3])["pixel_values"]
    with Encodings(model).reused(), torch.no_grad():
        for factor in (1, 2):
            model.model.vision_tower(pixels, some_mask=torch.full((2,), factor))
    assert len(encoded) == 2


def test_what_callers_add_is_not_kept(model: Any) -> None:
    pixels = tiny_inputs([5, 3])["pixel_values"]
    with Encodings(model).reused(), torch.no_grad():
        for _ in range(3):
            made = model.model.vision_tower(pixels)
            assert made.pooler_output.shape[0] == 2
            made.pooler_output = "something else"


def test_no_more_is_kept_than_there_is_room_for(model: Any, encoded: list[torch.Size]) -> None:
    first, second = (tiny_inputs([5, 3], seed=seed)["pixel_values"] for seed in (1, 2))
    with torch.no_grad():
        made = model.model.vision_tower(first)
        size = made.last_hidden_state.nbytes + made.pooler_output.nbytes
        encoded.clear()
        with Encodings(model, room=size + 1).reused():
            for _ in range(3):
                model.model.vision_tower(first)
                model.model.vision_tower(second)
    assert len(encoded) == 1 + 3


def test_the_encoder_is_left_as_it_was(model: Any, encoded: list[torch.Size]) -> None:
    inputs = tiny_inputs([5, 3])
    with pytest.raises(KeyError), Encodings(model).reused():
        answer(model, {key: inputs[key] for key in ("input_ids", "pixel_values", "nothing")})
    assert "forward" not in vars(model.model.vision_tower)
    encoded.clear()
    answer(model, inputs)
    answer(model, inputs)
    assert len(encoded) == 2
